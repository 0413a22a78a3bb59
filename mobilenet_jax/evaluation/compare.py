"""`mobilenet-jax compare`: several evaluated runs side by side, and whether what parts them is more than chance."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.style
import numpy as np
from matplotlib.figure import Figure

from input_pipeline.atomic_files import write_atomically
from mobilenet_jax.errors import EvaluationError
from mobilenet_jax.evaluation.metrics import OVERALL, Metrics, bootstrap, compute_metrics
from mobilenet_jax.evaluation.predictions import Predictions, read_predictions
from mobilenet_jax.evaluation.trained_run import read_records


@dataclass(frozen=True)
class Comparison:
    """Runs on the images they have in common.

    Attributes:
        names: of the runs.
        images: how many images that is.
        metrics: of each run.
        differences: of each run but the first, from the first: 95% intervals by the names of the metrics.
    """

    names: list[str]
    images: int
    metrics: list[Metrics]
    differences: list[dict[str, tuple[float, float]]]

    def format_text(self) -> str:
        """A table in Markdown; a difference that chance hardly makes, whose interval leaves out 0, has a star."""
        rows = [["", *self.names], ["---"] * (len(self.names) + 1)]
        for figure, (label, _) in OVERALL.items():
            cells = [f"{self.metrics[0][figure]:.4f}"]
            for found, intervals in zip(self.metrics[1:], self.differences, strict=True):
                low, high = intervals[figure]
                star = " *" if low > 0 or high < 0 else ""
                cells.append(f"{found[figure]:.4f} ({found[figure] - self.metrics[0][figure]:+.4f} "
                             f"[{low:+.4f}, {high:+.4f}]{star})")  # fmt: skip
            rows.append([label, *cells])
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def compare(workdirs: Sequence[Path], evaluation: str, resamples: int = 1000) -> Comparison:
    """Compares what `mobilenet-jax evaluate` left in workdirs, on the images that all of them have.

    The differences are paired: each bootstrap sample has the same lesions for all runs.

    Args:
        workdirs: two or more.
        evaluation: the name of the folder in `WORKDIR/evaluation`.
        resamples: of the bootstrap.

    Raises:
        EvaluationError: an evaluation is missing, or there are no images in common.
    """
    found = [read_predictions(w / "evaluation" / evaluation / "predictions.csv") for w in workdirs]
    for workdir, predictions in zip(workdirs, found, strict=True):
        if predictions.class_names != found[0].class_names:
            raise EvaluationError(f"{workdir} has other classes than {workdirs[0]}")
    common = set(found[0].images).intersection(*(predictions.images for predictions in found))
    if not common:
        raise EvaluationError(f"the evaluations {evaluation} have no image in common")
    tables = [_sorted(predictions, common) for predictions in found]
    for workdir, predictions in zip(workdirs, tables, strict=True):
        if (predictions.labels != tables[0].labels).any():
            raise EvaluationError(f"{workdir} has other labels than {workdirs[0]}")
    metrics = [compute_metrics(predictions) for predictions in tables]

    def difference(rows: np.ndarray, other: Predictions) -> Metrics:
        first, second = (compute_metrics(predictions.take(rows)) for predictions in (tables[0], other))
        return {name: second[name] - first[name] for name in OVERALL}

    differences = [
        bootstrap(tables[0].lesions, lambda rows, other=other: difference(rows, other), resamples)  # type: ignore[misc]
        for other in tables[1:]
    ]
    return Comparison(_names(workdirs), len(common), metrics, differences)


def draw_comparison(workdirs: Sequence[Path], out: Path) -> None:
    """Draws the curves of validation on one axis each, as PNG.

    Raises:
        EvaluationError: the figures of a run's epochs are damaged.
        OSError: the file cannot be written.
    """
    with matplotlib.style.context("petroff10"):
        figure = Figure(figsize=(12, 3.6), layout="constrained")
        for axes, metric in zip(figure.subplots(1, 3), ("loss", "accuracy", "balanced_accuracy"), strict=True):
            for workdir, name in zip(workdirs, _names(workdirs), strict=True):
                records = read_records(workdir)
                [line] = axes.plot([r["epoch"] for r in records], [r[f"val_{metric}"] for r in records], "o-",
                                   markersize=3, label=name)  # fmt: skip
                axes.plot([r["epoch"] for r in records], [r[f"train_{metric}"] for r in records], ":",
                          color=line.get_color())  # fmt: skip
            axes.set(title=metric.replace("_", " "), xlabel="epoch")
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.grid(alpha=0.3)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=min(len(workdirs), 4),
                      title="validation; dotted: training")  # fmt: skip
        figure.savefig(png := io.BytesIO(), format="png", dpi=110)
    write_atomically(out, png.getvalue())


def _names(workdirs: Sequence[Path]) -> list[str]:
    """Of runs: the folders' names, or where they differ not, the whole paths."""
    names = [workdir.resolve().name for workdir in workdirs]
    return names if len(set(names)) == len(names) else [str(workdir) for workdir in workdirs]


def _sorted(predictions: Predictions, common: set[str]) -> Predictions:
    chosen = np.flatnonzero(np.isin(predictions.images, list(common)))
    return predictions.take(chosen[np.argsort(predictions.images[chosen])])
