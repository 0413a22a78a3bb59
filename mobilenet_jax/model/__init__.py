"""The network and its layer table."""
