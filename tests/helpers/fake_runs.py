"""A template for `--command` that replaces the commands of runs: it writes their files without training.

    python -m tests.helpers.fake_runs FOLDER SLOT COMMAND...

Each command appends a line `SLOT START END ARGUMENTS` to `FOLDER/calls`. A file `FOLDER/fail` with part of an argument
makes the commands with it fail, and `FOLDER/slow` makes all of them wait for SIGTERM.
"""

import json
import signal
import sys
import time
from pathlib import Path

from mobilenet_jax.training.config import parse_config


def main(folder: Path, slot: str, arguments: list[str]) -> None:
    """Imitates one command."""
    start = time.monotonic()
    if (folder / "fail").exists() and (folder / "fail").read_text() in " ".join(arguments):
        sys.exit("error: the loss is nan at step 3")
    if (folder / "slow").exists():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
        (folder / f"started{slot}").touch()
        time.sleep(60)
    if arguments[0] == "train":
        _write_run(arguments[1:])
    else:
        _write_evaluation(arguments)
    with (folder / "calls").open("a") as calls:
        calls.write(f"{slot} {start} {time.monotonic()} {' '.join(arguments)}\n")


def _write_run(arguments: list[str]) -> None:
    options = dict(argument.removeprefix("--").split("=", 1) for argument in arguments)
    workdir = Path(options["workdir"])
    config, _ = parse_config(options["config"], [a for a in arguments if a.startswith("--config.")])
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "config.json").write_text(json.dumps(config.to_dict()))
    summary = {"last": {"epoch": config.train.epochs or 15}, "stopped_early": False, "training_images": 2000}
    (workdir / "summary.json").write_text(json.dumps(summary))


def _write_evaluation(arguments: list[str]) -> None:
    options = dict(a.removeprefix("--").split("=", 1) for a in arguments if "=" in a)
    if "out" in options:
        folder = Path(options["out"])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.json").write_text(json.dumps({"resamples": int(options["resamples"]), "metrics": {}}))
        (folder / "report.html").touch()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[sys.argv.index("-c") + 2 :])
