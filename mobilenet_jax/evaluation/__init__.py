"""Evaluates trained models on labeled images."""
