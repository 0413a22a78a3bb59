"""Applies trained models to images: probabilities, predictions for files, Grad-CAM."""
