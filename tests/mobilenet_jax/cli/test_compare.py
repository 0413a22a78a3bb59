import csv
import json
import shutil

from PIL import Image

from input_pipeline.sources.isic import CLASS_NAMES as NAMES
from tests.helpers.runs import read_table


def test_compare_prints_the_difference_of_two_runs_and_draws_their_curves(run, evaluated, tmp_path):
    perfect = shutil.copytree(evaluated, tmp_path / "perfect")
    path = perfect / "evaluation" / "validation" / "predictions.csv"
    rows = read_table(path)
    for row in rows:
        row |= {name: float(name == row["label"]) for name in NAMES}
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    status, out, _ = run("compare", evaluated, perfect, "--resamples=50")
    assert status == 0
    assert out.startswith("14 images in common\n\n|  | run | perfect |")
    [line] = [line for line in out.splitlines() if line.startswith("| accuracy")]
    accuracy = json.loads((evaluated / "evaluation" / "validation" / "metrics.json").read_text())["metrics"]["accuracy"]
    assert line.startswith(f"| accuracy | {accuracy:.4f} | 1.0000 ({1 - accuracy:+.4f} [")
    assert line.endswith(" *) |")
    assert out.endswith(f"\n{tmp_path / 'compare.png'}\n")
    with Image.open(tmp_path / "compare.png") as picture:
        assert picture.width > 1000


def test_evaluations_of_earlier_checkpoints_are_refused(run, evaluated, tmp_path):
    other = shutil.copytree(evaluated, tmp_path / "other")
    [checkpoint] = (other / "checkpoints").iterdir()
    checkpoint.rename(checkpoint.with_name("9"))
    status, _, err = run("compare", evaluated, other, "--resamples=10")
    assert status == 1
    folder = other / "evaluation" / "validation"
    assert err == (
        f"error: {folder} is of the best checkpoint, step {checkpoint.name}, not of the best checkpoint, step 9: run "
        "mobilenet-jax evaluate again\n"
    )


def test_other_options_of_an_evaluation_are_warned_of(run, evaluated, tmp_path):
    other = shutil.copytree(evaluated, tmp_path / "other")
    facts = other / "evaluation" / "validation" / "metrics.json"
    facts.write_text(json.dumps({**json.loads(facts.read_text()), "views": 8}))
    status, _, err = run("compare", evaluated, other, "--resamples=10")
    assert (status, err) == (
        0,
        "warning: the evaluations differ in their views and correction: 1 and none, 8 and none\n",
    )


def test_a_missing_folder_is_found_before_the_comparison(run, evaluated, tmp_path):
    status, out, err = run("compare", evaluated, evaluated, "--out", tmp_path / "none" / "curves.png")
    assert (status, out, err) == (1, "", f"error: no such folder: {tmp_path / 'none'}\n")


def test_curves_do_not_replace_files_of_other_kinds(run, evaluated):
    before = (evaluated / "config.json").read_bytes()
    _, _, err = run("compare", evaluated, evaluated, "--out", evaluated / "config.json")
    assert "config.json must be the name of a PNG file" in err
    assert (evaluated / "config.json").read_bytes() == before


def test_no_curves_are_drawn_of_cross_validations(run, evaluated, tmp_path):
    workdirs = [shutil.copytree(evaluated, tmp_path / name) for name in ("a", "b")]
    for workdir in workdirs:
        (workdir / "metrics.jsonl").unlink()
    status, out, _ = run("compare", *workdirs, "--resamples=10")
    assert status == 0
    assert out.endswith("|\n\nno learning curves: these are not single runs\n")
    assert not (tmp_path / "compare.png").exists()


def test_compare_requires_two_evaluated_runs(run, workdir):
    assert "at least two workdirs" in run("compare", workdir)[2]
    status, _, err = run("compare", workdir, workdir)
    assert status == 1
    assert err.endswith("predictions.csv is missing: run mobilenet-jax evaluate first\n")
