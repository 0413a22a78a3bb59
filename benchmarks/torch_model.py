"""MobileNet v1 with the article's head in PyTorch, for benchmarks; run by an interpreter that has PyTorch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

_BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))


def build_model(alpha: float, size: int) -> nn.Sequential:
    """Builds the model for images of `[3, size, size]` and seven classes."""

    def normalize(channels: int) -> list[nn.Module]:
        return [nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01), nn.ReLU6()]

    channels = int(32 * alpha)
    layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, 2, 1, bias=False), *normalize(channels)]
    for features, stride in _BLOCKS:
        layers += [nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False), *normalize(channels)]
        layers += [nn.Conv2d(channels, int(features * alpha), 1, bias=False), *normalize(int(features * alpha))]
        channels = int(features * alpha)
    dense = [nn.Linear(channels * (size // 32) ** 2, 1024), nn.ReLU(), nn.Dropout(0.5)]
    dense += [nn.Linear(1024, 1024), nn.ReLU(), nn.Dropout(0.5), nn.Linear(1024, 7)]
    return nn.Sequential(*layers, nn.Flatten(), *dense)


def make_train_runner(alpha: float, images: np.ndarray, labels: np.ndarray) -> Callable[[int], None]:
    """Returns a function that runs N training steps with images `[n, size, size, 3]`, in channels-last memory."""
    model: Any = build_model(alpha, images.shape[1])  # the types of `to` lack the layout of memory
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.001, momentum=0.9)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    y = torch.from_numpy(labels).long()

    def run_steps(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()

    return run_steps
