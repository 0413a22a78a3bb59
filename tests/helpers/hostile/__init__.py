"""Weights files that are damaged or malicious, one module per format."""
