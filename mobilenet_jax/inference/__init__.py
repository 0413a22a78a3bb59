"""A trained model applied to images: probabilities, predictions for files, Grad-CAM."""
