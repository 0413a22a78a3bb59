"""Benchmarks: each script measures one claim against a named peer, with both sides in one run."""
