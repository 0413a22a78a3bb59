"""Batches to a trained model: the loop, the jitted steps, and the files of a run."""
