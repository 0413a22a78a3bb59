"""Reads examples from each supported layout: one module per layout, and the registry of all."""
