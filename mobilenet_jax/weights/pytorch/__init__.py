"""Weights of PyTorch's two MobileNets v1: those of timm and of Transformers."""
