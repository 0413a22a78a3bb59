"""The heads of the network, as parameters of tests."""

import pytest

# Two of them have every kind of layer, so that the fast tests are those of these two.
HEADS = ["small", "article_bn", *(pytest.param(head, marks=pytest.mark.slow) for head in ("article", "imagenet", None))]
