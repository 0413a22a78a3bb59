"""Weights in the files of Keras 1 to 3."""
