"""Trained networks as files for phones, browsers and other runtimes."""
