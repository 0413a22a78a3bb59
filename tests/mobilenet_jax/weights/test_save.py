"""Weights that are written: their tensors, metadata and round trips."""

import hashlib
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest
import safetensors

from input_pipeline.preprocessing import Preprocessing
from mobilenet_jax.errors import WeightsError
from mobilenet_jax.model.mobilenet import MobileNet
from mobilenet_jax.weights.load import load_pretrained, read_weights
from mobilenet_jax.weights.metadata import Metadata
from mobilenet_jax.weights.save import save_pretrained, write_weights
from tests.helpers.heads import HEADS
from tests.helpers.keras_models import make_random_mobilenet, randomize
from tests.helpers.weights_files import are_equal, write_keras_2

NAMES = ("w.safetensors", "w.weights.h5", "folder")


@pytest.mark.parametrize("head", HEADS)
def test_round_trips_through_every_format_keep_every_bit(tmp_path, head):
    reference = make_random_mobilenet(0.25, head)
    reference.save_weights(tmp_path / "k.weights.h5")
    start = read_weights(tmp_path / "k.weights.h5")
    metadata = Metadata((64, 64), (0.0, 1.0), tuple(map(str, range(start.architecture.num_classes))) or None)
    weights, previous = start, None
    for name in (*NAMES, "w2.safetensors", "w2.weights.h5"):
        write_weights(tmp_path / name, weights)
        weights = read_weights(tmp_path / name)
        assert are_equal(weights.tensors, start.tensors)
        assert weights.architecture == start.architecture
        if previous is None:
            save_pretrained(tmp_path / name, start.architecture.build_model(), start.variables, metadata, force=True)
            weights = read_weights(tmp_path / name)
        previous = weights.metadata
        assert (previous.image_size, previous.input_scaling, previous.classes) == (
            metadata.image_size,
            metadata.input_scaling,
            metadata.classes,
        )
        assert len(previous.source_sha256) == 64
        assert previous.source == name
    assert read_weights(tmp_path / name, head=False).metadata.classes is None
    randomize(other := make_random_mobilenet(0.25, head), seed=1)
    other.load_weights(tmp_path / "w2.weights.h5")
    for before, after in zip(reference.get_weights(), other.get_weights(), strict=True):
        assert before.tobytes() == after.tobytes()


def test_metadata_are_written_as_text(tmp_path, weights):
    write_weights(path := tmp_path / "w.safetensors", read_weights(weights[0.25]))
    with safetensors.safe_open(path, framework="numpy") as file:
        assert file.metadata() == {
            "alpha": "0.25",
            "image_size": "[224, 224]",
            "input_scaling": "[-1.0, 1.0]",
            "source": "mobilenet_2_5_224_tf_no_top.h5",
            "source_sha256": hashlib.sha256(weights[0.25].read_bytes()).hexdigest(),
        }


def test_metadata_accept_names_with_joiners_and_ranges_of_numpy(tmp_path):
    classes = ("melanoma in\u00a0situ", "\u0645\u06cc\u200c\u0634\u0648\u062f")
    metadata = Metadata((64, 64), (np.float32(0), np.float32(1)), classes)
    texts = metadata.to_texts()
    assert Metadata.from_texts(texts) == Metadata((64, 64), (0.0, 1.0), classes)
    for faulty in ({"classes": ("a\nb",)}, {"classes": ("a\x1b[2J",)}, {"classes": ("\u202elom",)}, {"image_size": 64}):
        with pytest.raises(WeightsError):
            Metadata(**faulty)


@pytest.mark.parametrize("name", NAMES)
def test_every_format_keeps_the_preprocessing(tmp_path, name):
    weights, steps = read_weights(write_keras_2(tmp_path / "w.h5")), Preprocessing("crop", "shades_of_gray")
    assert "resize" not in weights.metadata.to_texts()
    write_weights(tmp_path / name, replace(weights, metadata=Metadata(preprocessing=steps)))
    metadata = read_weights(tmp_path / name).metadata
    assert metadata.preprocessing == steps
    assert (metadata.to_texts()["resize"], metadata.to_texts()["color_constancy"]) == steps


@pytest.mark.parametrize("scaling", ["[[0, 0, 0], 1]", "[0]", "[[0, 0], [1, 1]]", "[0, [1]]", "{}", "[1, 0]"])
def test_a_damaged_input_scaling_is_refused(scaling):
    with pytest.raises(WeightsError, match="input_scaling"):
        Metadata.from_texts({"input_scaling": scaling})


@pytest.mark.parametrize(("name", "known"), [("resize", "stretch, crop"), ("color_constancy", "none, shades_of_gray")])
def test_unknown_preprocessing_is_refused(name, known):
    with pytest.raises(WeightsError, match=f"{name} is 'new', not one of {known}"):
        Metadata.from_texts({name: "new"})


def test_the_same_weights_give_the_same_bytes(tmp_path):
    """The Hub recognizes files that it has by their hash."""
    weights = read_weights(write_keras_2(tmp_path / "w.h5"))
    contents = set()
    for name in map(str, range(4)):
        write_weights(path := tmp_path / f"{name}.safetensors", weights)
        contents.add(path.read_bytes())
    assert len(contents) == 1


def test_sown_values_are_not_saved(tmp_path):
    model = MobileNet(0.25, "article_bn")
    images = np.zeros((1, 32, 32, 3), np.float32)

    def sow() -> dict[str, Any]:
        variables = model.init(jax.random.key(0), images, train=False)
        return variables | model.apply(variables, images, train=False, mutable=["activities"])[1]

    variables = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.5, np.float32), jax.eval_shape(sow))
    assert set(variables) == {"params", "batch_stats", "activities"}
    save_pretrained(tmp_path / "w.safetensors", model, variables)
    _, read = load_pretrained(tmp_path / "w.safetensors")
    expected = {name: variables[name] for name in ("params", "batch_stats")}
    assert jax.tree.all(jax.tree.map(np.array_equal, read, expected))


def test_variables_of_another_model_are_not_saved(tmp_path, weights):
    model, variables = load_pretrained(weights[0.25])
    with pytest.raises(
        WeightsError,
        match=r"\(alpha, head, classes, conv_head\) \(0\.25, None, 0, False\), .* has \(0\.25, 'small', 7, False\)",
    ):
        save_pretrained(tmp_path / "w.safetensors", MobileNet(0.25, "small"), variables)
    with pytest.raises(WeightsError, match=r"\(0\.25, None, 0, False\), but the model has \(0\.25, None, 0, True\)"):
        save_pretrained(tmp_path / "w.safetensors", MobileNet(0.25, head=None, conv_head=True), variables)
    del variables["params"]["conv_dw_3"]
    with pytest.raises(WeightsError, match="tensors missing: params.conv_dw_3.kernel"):
        save_pretrained(tmp_path / "w.safetensors", model, variables)
    assert not list(tmp_path.iterdir())


def test_a_folder_with_other_files_is_not_replaced(tmp_path):
    weights = read_weights(write_keras_2(tmp_path / "w.h5"))
    write_weights(tmp_path / "folder", weights)
    (tmp_path / "folder" / "notes.txt").touch()
    with pytest.raises(WeightsError, match=r"holds notes\.txt, which would be lost"):
        write_weights(tmp_path / "folder", weights, force=True)
    assert (tmp_path / "folder" / "notes.txt").exists()


def test_the_identity_of_a_file_is_its_content(tmp_path):
    weights = read_weights(write_keras_2(tmp_path / "w.h5"))
    assert weights.identity == f"sha256:{hashlib.sha256((tmp_path / 'w.h5').read_bytes()).hexdigest()}"
    (tmp_path / "w.h5").rename(tmp_path / "renamed.h5")
    assert read_weights(tmp_path / "renamed.h5").identity == weights.identity
    write_weights(tmp_path / "folder", weights)
    assert read_weights(tmp_path / "folder").identity.startswith("sha256:")
    assert read_weights(tmp_path / "folder").identity != weights.identity
