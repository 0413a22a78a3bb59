"""Benchmarks: each script measures one claim against a named baseline, and times both alternately in one run."""
