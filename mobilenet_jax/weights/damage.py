"""Turns the exceptions that libraries raise for damaged files into errors of one line."""

import contextlib
from collections.abc import Iterator

from input_pipeline.errors import get_first_line
from mobilenet_jax.errors import WeightsError

PICKLE = (
    "refusing to load a Python pickle: it can execute arbitrary code. Convert PyTorch's where it comes from: python -c "
    "\"import torch, safetensors.torch as s; s.save_file(torch.load('pytorch_model.bin', weights_only=True), "
    "'model.safetensors')\"; or load the Hub's conversion, often hf://OWNER/NAME@refs/pr/1"
)


@contextlib.contextmanager
def report_damage(problem: str = "damaged, or not weights") -> Iterator[None]:
    """Raises `WeightsError` for any exception in its block. Libraries raise almost any type for a damaged file.

    `WeightsError` and `OSError` (no permission, no room to unpack an archive) pass unchanged. Only code that reads a
    file belongs in the block: a bug would be reported as damage.

    Args:
        problem: the start of the message.
    """
    try:
        yield
    except (WeightsError, OSError):
        raise
    except Exception as error:
        raise WeightsError(f"{problem} ({get_first_line(error)})") from error
