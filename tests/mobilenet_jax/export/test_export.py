import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from input_pipeline.image_ops import preprocess
from input_pipeline.preprocessing import Preprocessing
from mobilenet_jax.errors import ExportError, WeightsError
from mobilenet_jax.evaluation.trained_run import read_trained_run
from mobilenet_jax.export import images, verification
from mobilenet_jax.export.export import _report_conversion, check_destination, export_model
from mobilenet_jax.export.formats import FORMATS
from mobilenet_jax.export.network import Network
from mobilenet_jax.export.verification import Verification
from mobilenet_jax.training.loop import train_and_evaluate
from mobilenet_jax.weights.layout import Architecture
from mobilenet_jax.weights.load import read_weights
from mobilenet_jax.weights.metadata import Metadata, make_input_scaling
from mobilenet_jax.weights.save import write_weights
from mobilenet_jax.weights.weights import Weights
from mobilenet_jax.weights.weights_file import compute_sha256
from tests.helpers.runs import make_config
from tests.helpers.sensitive_weights import CLASSES, make_images, make_sensitive_weights
from tests.helpers.weights_files import make_random_tensors

pytest.importorskip("litert_converter", reason="needs pip install -e '.[export]'")


def make_verification(**changes):
    values = {"largest_difference": 0.0, "mean_difference": 0.0, "total_variation": 0.0, "top_class_agreement": 1.0}
    values["relative_error"] = None
    return Verification("probabilities", 32, milliseconds={1: 1.0, 2: 1.0}, **{**values, **changes})


def test_the_description_says_how_to_use_the_file(trained, tmp_path):
    out = tmp_path / "a.tflite"
    description = export_model(trained, out, quantize="int8", calibration_images=4)
    assert json.loads((tmp_path / "a.tflite.json").read_text()) == json.loads(json.dumps(description))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tflite", "a.tflite.json"]
    assert description["classes"] == CLASSES
    assert description["class_titles"][:2] == ["melanoma", "melanocytic nevus"]
    assert (description["input"]["shape"], description["input"]["type"]) == ((1, 32, 32, 3), "uint8")
    assert description["output"]["name"] == "probabilities"
    assert description["license"] == "CC BY-NC 4.0"
    assert description["notice"].startswith("Not a medical device.")
    assert (description["bytes"], description["sha256"]) == (out.stat().st_size, compute_sha256(out))
    assert description["operations"]["DEPTHWISE_CONV_2D"] == 13
    assert description["verification"]["images"] == 14
    assert description["verification"]["image_source"] == "validation split"
    assert description["calibration_images"] == 4
    assert description["verification"]["milliseconds"].keys() == {1, 2}


@pytest.mark.parametrize("source", ["folder", "run", "run on all images"])
def test_images_for_verification_are_not_those_of_the_calibration(trained, data, tmp_path, source):
    network, run = Network(read_weights(trained)), read_trained_run(trained) if source == "run" else None
    if source == "run on all images":
        train_and_evaluate(make_config(data, data__split="all", train__epochs=1), tmp_path / "run")
        run = read_trained_run(tmp_path / "run")
    folder = None if run else str(data)
    calibration = images.read_calibration_images(run, folder, network, 12)
    verification, image_source = images.read_verification_images(run, folder, network, 12)
    splits = {"folder": "folder", "run": "validation split", "run on all images": "training split"}
    assert image_source == splits[source]
    assert len(calibration) == len(verification) == 12
    assert not {image.tobytes() for image in calibration} & {image.tobytes() for image in verification}


def test_the_chosen_checkpoint_of_a_run_is_exported(trained, tmp_path, monkeypatch):
    chosen = []
    monkeypatch.setattr("mobilenet_jax.export.export.read_trained_run", lambda path, name: chosen.append(name) or 1 / 0)
    for name in ("best", "latest"):
        with pytest.raises(ZeroDivisionError):
            export_model(trained, tmp_path / "model.tflite", checkpoint=name)
    assert chosen == ["best", "latest"]


def test_images_of_every_class_are_among_the_first_ones(tmp_path):
    """Steps of the calibration take the first ones only, and folders are sorted by class."""
    for c in range(4):
        for i in range(30):
            path = tmp_path / str(c) / f"{i}.png"
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (32, 32), (60 * c, 0, 0)).save(path)
    network = Network(make_sensitive_weights("small", (32, 32)))
    first = images.read_calibration_images(None, str(tmp_path), network, 80)[:20, 0, 0, 0]
    assert set(first.tolist()) == {0, 60, 120, 180}


def test_images_that_cannot_be_read_are_warned_of(tmp_path, caplog):
    for i in range(3):
        Image.new("RGB", (32, 32), (60 * i, 0, 0)).save(tmp_path / f"{i}.png")
    (tmp_path / "3.png").write_bytes(b"text")
    network = Network(make_sensitive_weights("small", (32, 32)))
    assert len(images.read_calibration_images(None, str(tmp_path), network, 80)) == 3
    assert caplog.messages[0].startswith("leaving out 1 of 4 images, the first: ")
    assert "3.png" in caplog.messages[0]


def test_a_calibration_with_few_different_images_is_warned_of(caplog):
    pixels = np.arange(32, dtype=np.uint8)[:, None, None, None] * np.ones((8, 8, 3), np.uint8)
    images.warn_of_few_images(pixels)
    assert not caplog.messages
    images.warn_of_few_images(np.concatenate([pixels[:31], pixels[:31]]))
    assert caplog.messages[0].startswith("int8 is calibrated with 31 different images only")


def test_probabilities_of_a_single_output_are_refused():
    architecture = Architecture(0.25, "small", 1, 1)
    weights = Weights("test", "", architecture, make_random_tensors(architecture), Metadata((32, 32), source="w.h5"))
    with pytest.raises(WeightsError, match="has one output: probabilities of classes require two or more"):
        Network(weights)
    assert Network(weights, raw=True).output == "logits"


def test_errors_of_a_converter_are_reported_but_not_a_lack_of_memory():
    converting = _report_conversion(FORMATS[".tflite"])
    with pytest.raises(ExportError, match=r"cannot convert the network to LiteRT \(first\)"), converting:
        raise RuntimeError("first\nsecond")
    with pytest.raises(RuntimeError, match="RESOURCE"), _report_conversion(FORMATS[".tflite"]):
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")


def test_a_file_that_differs_from_the_model_does_not_appear(trained, tmp_path, monkeypatch):
    out = tmp_path / "a.tflite"
    export_model(trained, out)
    before = out.read_bytes()
    reference = verification.Network.compute_reference
    monkeypatch.setattr(verification.Network, "compute_reference", lambda *args: reference(*args) + 0.01)
    with pytest.raises(ExportError, match=r"differs from the JAX model by up to 0\.01 \(limit 0\.0001\)"):
        export_model(trained, out, force=True)
    assert out.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tflite", "a.tflite.json"]


def test_a_runtime_that_crashes_is_an_error(trained, tmp_path, monkeypatch):
    crashed = subprocess.CompletedProcess([], -11, "", "")
    monkeypatch.setattr(verification.subprocess, "run", lambda *args, **kwargs: crashed)
    with pytest.raises(ExportError, match="its runtime cannot run the exported network: exit status -11"):
        export_model(trained, tmp_path / "a.tflite")
    assert list(tmp_path.iterdir()) == []


def test_the_outputs_with_two_threads_are_compared_as_well(monkeypatch):
    network = Network(make_sensitive_weights("small", (32, 32)))
    pixels = make_images(2, (32, 32))
    expected = network.compute_reference(pixels)
    outputs = {1: expected, 2: expected + 0.25}
    monkeypatch.setattr(verification, "_run", lambda path, threads, inputs: (outputs[threads], 1.0))
    result = verification.verify(network, Path("a.tflite"), pixels)
    assert result.largest_difference == pytest.approx(0.25)
    assert result.mean_difference == pytest.approx(0.125)
    assert result.total_variation == pytest.approx(7 * 0.125 / 2)
    outputs[2] = expected[:1]
    with pytest.raises(ExportError, match=r"returns \(1, 7\), the JAX model \(2, 7\)"):
        verification.verify(network, Path("a.tflite"), pixels)


@pytest.mark.parametrize(
    ("head", "message"),
    [(None, r"a relative error of 1 \(limit 0.5\)"), ("small", "a total variation distance of 0.8")],
)
def test_int8_files_with_outputs_of_zeros_are_refused(head, message, monkeypatch):
    """Their mean difference is small if one output of an image is large."""
    network, pixels = Network(make_sensitive_weights(head, (32, 32)), raw=True), make_images(8, (32, 32))
    expected = np.where(np.arange(network.compute_reference(pixels).shape[-1]) == 0, 10, np.zeros((8, 1)))
    monkeypatch.setattr(verification.Network, "compute_reference", lambda *args: expected)
    monkeypatch.setattr(verification, "_run", lambda path, threads, inputs: (0 * expected, 1.0))
    with pytest.raises(ExportError, match=message):
        verification.verify(network, Path("a.tflite"), pixels).check("int8")


@pytest.mark.parametrize("quantize", ["none", "float16", "int8"])
def test_differences_beyond_the_limit_and_nan_are_errors(quantize):
    make_verification(largest_difference=1e-5, mean_difference=1e-6).check(quantize)
    for changes in ({"largest_difference": 0.6}, {"mean_difference": 0.06}, {"largest_difference": np.nan}):
        with pytest.raises(ExportError, match="nothing was written"):
            make_verification(**changes).check(quantize)
    for variation in (0.16, np.nan):  # as of 1,000 classes in another order, which differ little on average
        with pytest.raises(ExportError, match="total variation distance of .* nothing was written"):
            make_verification(total_variation=variation).check(quantize)


def test_backbones_are_exported_with_their_features(tmp_path, monkeypatch):
    write_weights(tmp_path / "backbone.safetensors", make_sensitive_weights(None, (32, 32)))
    description = export_model(tmp_path / "backbone.safetensors", tmp_path / "a.tflite")
    assert description["output"]["name"] == "features"
    assert description["classes"] is None
    assert description["verification"]["top_class_agreement"] is None
    with pytest.raises(ExportError, match=r"there is no folder of images: specify one with --data=DIR"):
        export_model(tmp_path / "backbone.safetensors", tmp_path / "b.tflite", quantize="int8")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.onnx", "a.mlir", "a"])
@pytest.mark.parametrize("raw", [False, True])
def test_other_formats_are_verified_with_their_own_runtimes(trained, tmp_path, name, raw):
    description = export_model(trained, tmp_path / name, raw=raw)
    assert description["verification"]["largest_difference"] < 1e-4
    assert (tmp_path / name).exists()
    assert description["verification"]["milliseconds"][1] > 0


def _write_weights(path, steps):
    write_weights(path, make_sensitive_weights("small", (32, 32), preprocessing=steps))
    return path


@pytest.mark.parametrize(
    "name",
    ["a.tflite", *(pytest.param(name, marks=pytest.mark.slow) for name in ("a.onnx", "a.mlir", "a"))],
)
@pytest.mark.parametrize("raw", [False, True])
def test_the_description_leaves_the_color_cast_to_the_application_if_the_network_does(tmp_path, name, raw):
    path = _write_weights(tmp_path / "w.safetensors", Preprocessing("crop", "shades_of_gray"))
    description = export_model(path, tmp_path / name, raw=raw)
    assert description["verification"]["largest_difference"] < 1e-4
    source = description["input"]
    assert (source["resize"], source["color_constancy"]) == ("crop", "shades_of_gray" if raw else "none")
    assert source["preprocessing"].startswith("cut the longer side equally at both ends")
    assert ("shades of gray" in source["preprocessing"]) == raw


def test_int8_refuses_a_range_per_channel_before_images_are_read(tmp_path):
    scaling = make_input_scaling((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    write_weights(tmp_path / "w.safetensors", make_sensitive_weights("small", (32, 32), input_scaling=scaling))
    with pytest.raises(ExportError, match="int8 needs one input scaling for all channels"):
        export_model(tmp_path / "w.safetensors", tmp_path / "a.tflite", quantize="int8", data=str(tmp_path / "none"))


def test_int8_refuses_to_remove_the_color_cast(tmp_path):
    path = _write_weights(tmp_path / "w.safetensors", Preprocessing("stretch", "shades_of_gray"))
    photograph = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    (tmp_path / "photos").mkdir()
    Image.fromarray(photograph).save(tmp_path / "photos" / "a.png")
    options = {"quantize": "int8", "data": str(tmp_path / "photos")}
    with pytest.raises(ExportError, match=r"^int8 cannot express the removal of the color cast .* --quantize=float16$"):
        export_model(path, tmp_path / "a.tflite", **options)
    assert not (tmp_path / "a.tflite").exists()
    assert export_model(path, tmp_path / "a.tflite", raw=True, **options)["quantization"] == "int8"


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("steps", [Preprocessing("crop"), Preprocessing("crop", "shades_of_gray")])
def test_images_are_read_with_the_steps_outside_of_the_network(tmp_path, raw, steps):
    photograph = np.random.default_rng(0).integers(0, (256, 180, 90), (48, 64, 3), np.uint8)
    Image.fromarray(photograph).save(tmp_path / "a.png")
    network = Network(make_sensitive_weights("small", (32, 32), preprocessing=steps), raw)
    [pixels], _ = images.read_verification_images(None, str(tmp_path), network, 1)
    np.testing.assert_array_equal(pixels, preprocess(photograph, (32, 32), steps if raw else Preprocessing("crop")))


def test_a_large_head_is_warned_of(tmp_path, caplog):
    from mobilenet_jax.export.export import _warn_of_large_head

    weights = make_sensitive_weights("article", (224, 224), alpha=0.25)
    _warn_of_large_head(Network(weights))
    assert "14 of the 14 million parameters belong to the head 'article'" in caplog.text


def test_destinations_are_validated_before_the_work(tmp_path):
    (tmp_path / "a.tflite").write_text("")
    (tmp_path / "folder").mkdir()
    for path, message in (
        (tmp_path / "none" / "a.tflite", "no such folder"),
        (tmp_path / "a.tflite", "overwrite it with --force"),
        (tmp_path / "folder", "is not an exported network"),
    ):
        with pytest.raises(ExportError, match=message):
            check_destination(path, force=False)
    check_destination(tmp_path / "a.tflite", force=True)
    description = {"notice": "", "sha256": "", "verification": {}}
    (tmp_path / "b.tflite.json").write_text(json.dumps(description))
    with pytest.raises(ExportError, match=r"b\.tflite\.json exists: choose another name"):
        check_destination(tmp_path / "b.tflite", force=False)
    check_destination(tmp_path / "b.tflite", force=True)


def test_other_content_is_not_replaced_even_by_force(tmp_path):
    (tmp_path / "config.json").write_text('{"model": {}}')
    with pytest.raises(ExportError, match=r"config\.json exists and does not describe an exported network"):
        check_destination(tmp_path / "config", force=True)
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"")
    check_destination(tmp_path / "saved", force=True)
    (tmp_path / "saved" / "notes.txt").write_text("")
    with pytest.raises(ExportError, match="saved exists and is not an exported network"):
        check_destination(tmp_path / "saved", force=True)


def test_leftovers_of_killed_exports_are_removed(tmp_path, monkeypatch):
    leftover = tmp_path / ".abc.unfinished"
    leftover.mkdir()
    (leftover / "lock").touch()
    os.utime(leftover, (0, 0))
    write_weights(tmp_path / "w.safetensors", make_sensitive_weights("small", (32, 32)))
    export_model(tmp_path / "w.safetensors", tmp_path / "a.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "a.onnx.json", "w.safetensors"]


@pytest.mark.slow
def test_a_full_disk_is_an_error_that_names_the_folder(tmp_path, monkeypatch):
    tf = pytest.importorskip("tensorflow")

    def fail(module, path, signatures):
        raise tf.errors.ResourceExhaustedError(None, None, f"{path}/saved_model.pb.tmp; No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    write_weights(tmp_path / "w.safetensors", make_sensitive_weights("small", (32, 32)))
    with pytest.raises(OSError, match="No space left on device") as caught:
        export_model(tmp_path / "w.safetensors", tmp_path / "a")
    assert caught.value.filename == str(tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


@pytest.mark.slow
def test_float16_halves_the_file(trained, tmp_path):
    sizes = [
        export_model(trained, tmp_path / f"{quantize}.tflite", quantize=quantize)["bytes"]
        for quantize in ("none", "float16")
    ]
    assert sizes[1] < 0.53 * sizes[0]
