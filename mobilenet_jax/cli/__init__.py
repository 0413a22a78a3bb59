"""The `mobilenet-jax` command."""
