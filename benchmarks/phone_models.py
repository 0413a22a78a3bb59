"""Compares int8 LiteRT files of several widths and image sizes: balanced accuracy, file size and time.

    python -m benchmarks.phone_models WORKDIR... --out DIR [--data DATA]

writes DIR/phone_models.md and DIR/phone_models.png. The workdirs are of runs with the head `small` that have the same
validation images, and the latest checkpoint counts. Accuracies are of one view of each validation image, with 95%
bootstrap intervals from 1,000 samples of lesions. Times are of single images on one thread; the files take turns over
nine rounds.
"""

import argparse
import os
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from benchmarks.exported import measure_times
from benchmarks.int8 import export_and_predict
from mobilenet_jax.evaluation.bootstrap import compute_intervals
from mobilenet_jax.evaluation.metrics import compute_balanced_accuracy
from mobilenet_jax.evaluation.plots import encode_png
from mobilenet_jax.evaluation.predictions import Predictions
from mobilenet_jax.evaluation.trained_run import read_trained_run
from mobilenet_jax.export import litert

_IMAGES_PER_ROUND = 50


class _PhoneModel(NamedTuple):
    """An int8 file: the width and the image size of its network, and what was measured."""

    alpha: float
    size: int
    megabytes: float
    milliseconds: float
    float_accuracy: float
    accuracy: float
    interval: tuple[float, float]


def main() -> None:
    """Exports, classifies, measures, and writes the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdirs", type=Path, nargs="+")
    parser.add_argument("--data", help="folder of the images (default: that of the run)")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    models = _measure(args.workdirs, args.data)
    (args.out / "phone_models.md").write_text(_format_table(models))
    (args.out / "phone_models.png").write_bytes(encode_png(_draw(models)))


def _measure(workdirs: list[Path], data: str | None) -> list[_PhoneModel]:
    with tempfile.TemporaryDirectory() as folder:
        files = {str(workdir): Path(folder) / f"{i}.tflite" for i, workdir in enumerate(workdirs)}
        predictions = {name: export_and_predict(Path(name), data, file) for name, file in files.items()}
        networks = {name: read_trained_run(Path(name), "latest").weights for name in files}
        sizes = {name: weights.metadata.image_size or (0, 0) for name, weights in networks.items()}
        rng = np.random.default_rng(0)
        times = measure_times({
            name: (litert.load(file, 1), rng.integers(0, 256, (_IMAGES_PER_ROUND, *sizes[name], 3), np.uint8))
            for name, file in files.items()
        })  # fmt: skip
        models = [
            _PhoneModel(
                networks[name].architecture.alpha, sizes[name][0], file.stat().st_size / 1e6, times[name],
                _compute_accuracy(predictions[name][0]), *_compute_interval(predictions[name][1]),
            )
            for name, file in files.items()
        ]  # fmt: skip
    return sorted(models)


def _compute_accuracy(predictions: Predictions) -> float:
    return compute_balanced_accuracy(predictions.labels, predictions.predicted)


def _compute_interval(predictions: Predictions) -> tuple[float, tuple[float, float]]:
    """Returns the balanced accuracy and its interval."""
    statistic = "balanced_accuracy"
    intervals = compute_intervals(
        predictions.lesions,
        predictions.labels,
        lambda rows: {statistic: _compute_accuracy(predictions.take(rows))},
        1000,
    )
    return _compute_accuracy(predictions), intervals[statistic]


def _format_table(models: list[_PhoneModel]) -> str:
    packages = ("jax", "litert-quantizer", "ai-edge-litert")
    lines = [
        "# Models for phones",
        "",
        "`python -m benchmarks.phone_models WORKDIR... --out DIR`",
        "",
        f"{' '.join(f'{name} {version(name)}' for name in packages)}, Python {platform.python_version()}, "
        f"{os.cpu_count()} CPU cores. int8 files; one view per image; milliseconds per image on one thread; the last",
        "column is the balanced accuracy of the JAX models.",
        "",
        "![balanced accuracy against file size and time](phone_models.png)",
        "",
        "| alpha | image | MB | ms | balanced accuracy [95% interval] | float32 |",
        "|---|---|---|---|---|---|",
    ]
    for m in models:
        accuracy = f"{m.accuracy:.3f} [{m.interval[0]:.3f}, {m.interval[1]:.3f}]"
        cells = [f"{m.alpha}", f"{m.size} x {m.size}", f"{m.megabytes:.2f}", f"{m.milliseconds:.2f}", accuracy]
        lines.append(f"| {' | '.join(cells)} | {m.float_accuracy:.3f} |")
    return "\n".join(lines) + "\n"


def _draw(models: list[_PhoneModel]) -> Figure:
    """Draws the balanced accuracy against the size of the file, and with its interval against the time."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for alpha in sorted({m.alpha for m in models}):
        group = [m for m in models if m.alpha == alpha]
        accuracies = [m.accuracy for m in group]
        errors = np.abs(np.transpose([m.interval for m in group]) - accuracies)
        left.plot([m.megabytes for m in group], accuracies, "o", label=f"alpha {alpha:g}")
        right.errorbar([m.milliseconds for m in group], accuracies, errors, fmt="o-", capsize=3, elinewidth=0.8)
        for i, m in enumerate(group):  # the sizes of one alpha have files of the same size
            label, right_side = {"textcoords": "offset points", "fontsize": "small"}, i % 2
            beside = {"xytext": (7 if right_side else -7, 0), "va": "center", "ha": "left" if right_side else "right"}
            below = {"xytext": (0, -3), "va": "top", "ha": "center"}
            left.annotate(f"{m.size}", (m.megabytes, m.accuracy), **label, **beside)
            right.annotate(f"{m.size}", (m.milliseconds, m.interval[0]), **label, **below)
    left.set(xlabel="int8 file, MB", ylabel="balanced accuracy", xlim=(0, 1.15 * max(m.megabytes for m in models)))
    right.set(xlabel="time per image, ms, one thread", xlim=(0, 1.15 * max(m.milliseconds for m in models)))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.margins(y=0.1)
    left.legend(title="numbers: image size", loc="lower center")
    return figure


if __name__ == "__main__":
    main()
