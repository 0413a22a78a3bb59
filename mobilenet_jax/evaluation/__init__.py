"""Measures a trained model on labeled images."""
