"""Measurements, each against a named peer, both sides in one run."""
