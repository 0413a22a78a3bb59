"""Turns image files into batches. Imports TensorFlow on first use; never JAX or `mobilenet_jax`."""
