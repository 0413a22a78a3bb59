"""The division of a batch into parts, so that the arrays of a part stay in a processor's caches."""


def divide_batch(batch: int, limit: int) -> tuple[int, int]:
    """Divides a batch into parts of nearly equal size.

    Args:
        batch: the number of images.
        limit: the largest number of images per part, at least 1.

    Returns:
        The number of parts, and the number of images per part. The last part is incomplete if their product exceeds
        `batch`.
    """
    parts = -(-batch // limit)
    return parts, -(-batch // parts)
