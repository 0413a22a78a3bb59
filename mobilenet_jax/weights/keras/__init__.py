"""Weights files of Keras 1, 2 and 3."""
