"""Weights files: read strictly, written completely or not at all."""
