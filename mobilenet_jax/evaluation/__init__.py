"""After training: what a model is worth, where it fails, what it looked at, and its predictions."""
