"""Writes evaluations as files: metrics, plots, an HTML report, a model card."""
