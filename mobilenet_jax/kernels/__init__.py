"""Operations that are faster in a form of their own than in the one XLA chooses."""
