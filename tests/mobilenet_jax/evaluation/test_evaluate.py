from types import SimpleNamespace

import numpy as np
import pytest

from mobilenet_jax.errors import EvaluationError
from mobilenet_jax.evaluation.evaluate import _average_predictions, _check_classes, _count_training_images
from tests.helpers.predictions import make_predictions, sample_outputs


def _make_run(trained_on, folder="data"):
    return SimpleNamespace(lesions=frozenset(trained_on), locate_images=lambda data, source: (folder, "folders"))


def _make_part(*names):
    return SimpleNamespace(lesions=np.array(names))


UNKNOWN = SimpleNamespace(lesions_known=False)


def test_the_images_that_a_model_was_trained_on_are_counted():
    run = _make_run({"a", "b"})
    assert _count_training_images([run], [_make_part("a", "b", "c")], UNKNOWN, "./data/") == 2
    assert _count_training_images([run], [_make_part("c")], UNKNOWN, "data") == 0


def test_each_fold_is_compared_with_its_own_training_set():
    folds = [_make_run({"a", "b"}), _make_run({"c", "d"})]
    assert _count_training_images(folds, [_make_part("c", "d"), _make_part("a", "b")], UNKNOWN, "data") == 0


@pytest.mark.parametrize(("known", "folder"), [(True, "data"), (False, "elsewhere")])
def test_images_with_known_lesions_or_of_another_folder_are_not_counted(known, folder):
    predictions = SimpleNamespace(lesions_known=known)
    assert _count_training_images([_make_run({"a"})], [_make_part("a")], predictions, folder) is None


def test_models_are_averaged_on_the_same_images_only():
    first, second = (make_predictions(*sample_outputs(20)) for _ in range(2))
    np.testing.assert_allclose(_average_predictions([first, second]).probabilities, first.probabilities)
    for other in (second.take(np.arange(len(second))[::-1]), second.take(np.arange(3))):
        with pytest.raises(EvaluationError, match="the runs read different images"):
            _average_predictions([first, other])


def test_a_class_called_malignant_is_not_confused_with_the_union_of_classes():
    runs = [SimpleNamespace(class_names=("benign", "malignant", "suspicious"))]
    _check_classes(runs, ["malignant"])
    _check_classes(runs, [])
    with pytest.raises(EvaluationError, match="a class is called malignant"):
        _check_classes(runs, ["malignant", "suspicious"])
