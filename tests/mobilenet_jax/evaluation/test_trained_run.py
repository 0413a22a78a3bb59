import csv
import json
import re
import unicodedata

import pytest

from input_pipeline.errors import DataError
from mobilenet_jax.errors import EvaluationError
from mobilenet_jax.evaluation.trained_run import EvaluatedModel, read_records, read_trained_run
from tests.helpers.datasets import write_photographs
from tests.helpers.sensitive_weights import make_sensitive_weights


@pytest.mark.parametrize("line", ["{}", "[]", "3", '{"epoch": 1, "step": 3}', '{"epoch": "1"}', "{", "[" * 200_000])
def test_a_line_that_is_no_record_is_an_error(workdir, line):
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(EvaluationError, match=r"cannot read .*metrics.jsonl \("):
        read_records(workdir)
    with pytest.raises(EvaluationError):
        read_trained_run(workdir)


@pytest.mark.parametrize(
    ("section", "key"), [("data", "split"), ("data", "source"), ("data", "dir"), ("init", "weights"), ("data", None)]
)
def test_a_configuration_without_a_needed_key_is_an_error(workdir, section, key):
    config = json.loads((workdir / "config.json").read_text())
    if key:
        del config[section][key]
    else:
        config[section] = 3
    (workdir / "config.json").write_text(json.dumps(config))
    with pytest.raises(EvaluationError, match=r"cannot read .* \(config.json lacks"):
        read_trained_run(workdir)


def test_a_section_of_the_configuration_that_is_not_one_is_an_error(workdir):
    config = json.loads((workdir / "config.json").read_text())
    (workdir / "config.json").write_text(json.dumps(config | {"early_stopping": ["x"]}))
    with pytest.raises(EvaluationError, match=r"cannot read .* \(config.json: early_stopping is not a section"):
        read_trained_run(workdir)


def test_class_names_are_recognized_in_either_form_of_unicode(tmp_path):
    names = ["L\N{LATIN SMALL LETTER A WITH DIAERESIS}sion", "Fleck"]
    model = EvaluatedModel(path="w", weights=make_sensitive_weights("small", (32, 32)), class_names=tuple(names))
    write_photographs(tmp_path, [f"{unicodedata.normalize('NFD', name)}/{i}.jpg" for i, name in enumerate(names)])
    examples = model.read_examples(str(tmp_path), "folders", "all")
    assert examples.class_names == model.class_names
    assert examples.labels.tolist() == [1, 0]


def test_an_unknown_source_is_an_error(workdir):
    config = json.loads((workdir / "config.json").read_text())
    config["data"]["source"] = "nowhere"
    (workdir / "config.json").write_text(json.dumps(config))
    with pytest.raises(EvaluationError, match="unknown data.source 'nowhere'"):
        read_trained_run(workdir)


def test_an_unknown_split_is_an_error(workdir):
    with pytest.raises(
        EvaluationError, match="there is no split 'validaton': choose one of training, validation, all, "
    ):
        read_trained_run(workdir).read_examples(None, None, "validaton")


def test_damaged_images_are_left_out_if_the_run_left_them_out(workdir, tmp_path):
    config = json.loads((workdir / "config.json").read_text())
    names = [f"{name}/{i}.png" for name in ("MEL", "NV") for i in range(2)]
    folder = write_photographs(tmp_path / "photographs", names)
    (folder / names[0]).write_bytes(b"")
    with pytest.raises(DataError, match="is empty"):
        read_trained_run(workdir).read_examples(str(folder), "folders", "all")
    config["data"]["skip_damaged"] = True
    (workdir / "config.json").write_text(json.dumps(config))
    assert len(read_trained_run(workdir).read_examples(str(folder), "folders", "all")) == 3


def test_the_best_epoch_is_that_of_the_checkpoint_and_not_the_last(workdir):
    path = workdir / "metrics.jsonl"
    path.write_text(path.read_text() + json.dumps({**json.loads(path.read_text()), "epoch": 2, "step": 6}) + "\n")
    run = read_trained_run(workdir)
    assert [r["epoch"] for r in run.records] == [1, 2]
    assert run.best_epoch == 1


def test_lesions_are_unknown_if_each_has_the_name_of_its_image(workdir):
    run, table = read_trained_run(workdir), workdir / "splits.csv"
    assert len(run.images) == 2 * len(run.lesions) == 28
    with table.open(newline="") as file:
        rows = [{**row, "lesion": row["image"]} for row in csv.DictReader(file)]
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    without_lesions = read_trained_run(workdir)
    assert (without_lesions.images, without_lesions.lesions) == (run.images, None)


def test_a_short_row_of_the_split_is_an_error(workdir):
    with (workdir / "splits.csv").open("a") as file:
        file.write("x,training\n")
    with pytest.raises(EvaluationError, match=r"splits\.csv: a row is too short"):
        read_trained_run(workdir)


@pytest.mark.parametrize(
    ("section", "settings", "sentence"),
    [
        ("loss", {}, "assume that the classes are as frequent as in the training set"),
        ("loss", {"logit_adjustment": 1.0}, "are those of equally common classes"),
        ("loss", {"logit_adjustment": 1}, "are those of equally common classes"),
        ("loss", {"logit_adjustment": 0.5}, r"gave rare classes more weight \(logit_adjustment=0.5\)"),
        ("loss", {"class_weights": "balanced"}, r"gave rare classes more weight \(class_weights=balanced\)"),
        ("data", {"sampling": "balanced"}, r"gave rare classes more weight \(sampling=balanced\)"),
    ],
)
def test_the_class_frequencies_that_probabilities_assume_depend_on_the_training(workdir, section, settings, sentence):
    config = json.loads((workdir / "config.json").read_text())
    config[section] |= settings
    (workdir / "config.json").write_text(json.dumps(config))
    assert re.search(sentence, read_trained_run(workdir).describe_prior())
