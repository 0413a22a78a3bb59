"""Implementations of operations that are faster than what XLA generates for them."""
