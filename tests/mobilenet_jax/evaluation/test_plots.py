from dataclasses import replace

import numpy as np
import pytest

from mobilenet_jax.evaluation.plots import draw_comparison, draw_curves, draw_figures, encode_png
from mobilenet_jax.evaluation.predictions import Predictions
from tests.helpers.predictions import NAMES, make_predictions, sample_outputs


def make_records(epochs):
    metrics = ("loss", "accuracy", "balanced_accuracy")
    values = {f"{side}_{name}": 0.5 for side in ("train", "val") for name in metrics}
    return [{"epoch": epoch, **values} for epoch in range(1, epochs + 1)]


def test_the_best_epoch_is_marked_in_every_panel():
    for narrow in (False, True):
        figure = draw_curves(make_records(5), 3, narrow=narrow)
        for axes in figure.axes:
            assert [list(line.get_xdata()) for line in axes.lines if line.get_linestyle() == "--"] == [[3, 3]]
        assert "best epoch, 3" in [text.get_text() for text in figure.axes[1].get_legend().get_texts()]
    assert all(len(axes.lines) == 2 for axes in draw_curves(make_records(5), None).axes)


def test_a_comparison_marks_the_best_epoch_of_each_run_that_has_one():
    records = {"a": make_records(5), "b": make_records(4), "c": []}
    for axes in draw_comparison(records, {"a": 3, "b": None, "c": None}).axes:
        assert [list(line.get_xdata()) for line in axes.lines if line.get_marker() == "*"] == [[3], [], []]


def test_the_confusion_matrix_shows_shares_and_numbers():
    predictions = make_predictions([0, 0, 0, 1], np.eye(4)[[0, 0, 1, 1]])
    [axes] = draw_figures(predictions)["confusion"].axes
    cells = [text.get_text() for text in axes.texts]
    assert cells[:4] == ["0.67\n2", "0.33\n1", "0.00\n0", "0.00\n0"]
    assert cells[4:6] == ["0.00\n0", "1.00\n1"]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        f"{name}\n{n} images" for name, n in zip(NAMES, (3, 1, 0, 0), strict=True)
    ]


def test_names_of_classes_with_dollar_signs_are_text():
    """Otherwise matplotlib would read them as mathematics, and fail for most."""
    predictions = replace(make_predictions(*sample_outputs()), class_names=("5_$x^", "$1-$5", "c", "d"))
    figures = draw_figures(predictions)
    assert figures["confusion"].axes[0].get_yticklabels()[1].get_text().startswith("$1-$5")
    for figure in figures.values():
        assert encode_png(figure).startswith(b"\x89PNG")


def test_names_that_begin_with_an_underscore_are_in_legends():
    predictions = replace(make_predictions(*sample_outputs()), class_names=("_other", "b", "c", "d"))
    for name in ("roc", "precision_recall"):
        legend = draw_figures(predictions)[name].axes[0].get_legend()
        assert any("_other" in text.get_text() for text in legend.get_texts())
    [legend] = draw_comparison({"_run": make_records(2), "b": make_records(2)}, {"_run": 1, "b": 1}).legends
    assert [text.get_text().strip() for text in legend.get_texts()] == ["_run", "b"]


def test_long_names_leave_room_for_the_plots():
    names = tuple(f"{letter}{' long names' * 8}" for letter in "abcd")
    figures = draw_figures(replace(make_predictions(*sample_outputs()), class_names=names))
    for name in ("confusion", "roc"):
        encode_png(figures[name])  # lays it out
        [axes] = figures[name].axes
        assert min(axes.get_position().size) > 0.5
        texts = [*axes.get_yticklabels(), *(axes.get_legend().get_texts() if name == "roc" else [])]
        boxes = [text.get_window_extent() for text in texts if text.get_text()]
        assert min(box.x0 for box in boxes) >= 0, "inside of the figure"


@pytest.mark.slow
def test_plots_of_a_thousand_classes_have_a_bounded_size_and_show_the_largest_classes():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(1_000), 3_000).astype(np.float32)
    labels = np.arange(3_000) % 1_000
    names = tuple(f"class {i}" for i in range(1_000))
    figures = draw_figures(Predictions(labels.astype(str), labels.astype(str), labels, probabilities, names))
    for figure in figures.values():
        assert max(figure.get_size_inches()) <= 22
        encode_png(figure)  # lays it out
    [axes] = figures["roc"].axes
    assert len(axes.lines) == 10 + 1  # and the diagonal
    assert axes.get_title() == "The 10 classes with the most images"
    assert min(axes.get_position().size) > 0.7
    assert figures["scores"].legends[0].get_title().get_text() == "The 25 classes with the most images"


def test_plots_do_not_repeat_the_titles_of_the_report():
    figures = draw_figures(make_predictions(*sample_outputs()))
    for name in ("confusion", "roc", "precision_recall", "reliability"):
        assert {axes.get_title() for axes in figures[name].axes} == {""}, name
