"""Writes evaluations for people: report and model card."""
