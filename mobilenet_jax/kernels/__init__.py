"""Implementations of operations that are faster than XLA's default form."""
