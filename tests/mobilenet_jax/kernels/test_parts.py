import pytest

from mobilenet_jax.kernels.parts import divide_batch


@pytest.mark.parametrize(
    ("batch", "limit", "expected"),
    [(32, 4, (8, 4)), (32, 5, (7, 5)), (67, 64, (2, 34)), (31, 15, (3, 11)), (6, 100, (1, 6)), (1, 1, (1, 1))],
)
def test_parts_are_of_nearly_equal_size(batch, limit, expected):
    assert divide_batch(batch, limit) == expected
