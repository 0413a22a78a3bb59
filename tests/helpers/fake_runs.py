"""Replacements for the commands of runs, which do not train.

`FakeRunner` writes the files of runs in this process. As a template for `--command`, this module writes none:

    python -m tests.helpers.fake_runs FOLDER SLOT COMMAND...

Each such command appends a line `SLOT START END ARGUMENTS` to `FOLDER/calls`. A file `FOLDER/fail` with part of an
argument makes the commands with it fail, and `FOLDER/slow` makes all of them wait for SIGTERM.
"""

import json
import signal
import sys
import time
from pathlib import Path


class FakeRunner:
    """Imitates `Runner`: writes the files by which runs and evaluations are known to be finished.

    Attributes:
        calls: the arguments of the commands, in order.
        failing: commands with this folder fail.
    """

    def __init__(self):
        self.calls = []
        self.failing = None

    def run(self, jobs):
        failed = []
        for job in jobs:
            self.calls.append(" ".join(job.arguments))
            if job.folder == self.failing:
                job.log.parent.mkdir(parents=True, exist_ok=True)
                job.log.write_text("error: the loss is nan at step 3\n")
                failed.append(job)
            elif job.arguments[0] == "train":
                _write_run(job)
            else:
                _write_evaluation(job)
        return failed


def _write_run(job):
    from mobilenet_jax.training.config import parse_config

    options = _read_options(job)
    config, _ = parse_config(options["config"], [a for a in job.arguments if a.startswith("--config.")])
    config.train.epochs = config.train.epochs or 15
    (job.folder / "checkpoints" / "1").mkdir(parents=True, exist_ok=True)
    (job.folder / "config.json").write_text(json.dumps(config.to_dict()))
    summary = {"last": {"epoch": config.train.epochs}, "stopped_early": False, "training_images": 2000}
    (job.folder / "summary.json").write_text(json.dumps(summary))


def _write_evaluation(job):
    job.folder.mkdir(parents=True, exist_ok=True)
    results = {"resamples": int(_read_options(job)["resamples"]), "metrics": {}, "intervals": {}}
    (job.folder / "metrics.json").write_text(json.dumps(results))
    (job.folder / "report.html").touch()


def _read_options(job):
    return dict(a.removeprefix("--").split("=", 1) for a in job.arguments if "=" in a)


def main(folder: Path, slot: str, arguments: list[str]) -> None:
    """Imitates one command."""
    start = time.monotonic()
    if (folder / "fail").exists() and (folder / "fail").read_text() in " ".join(arguments):
        sys.exit("error: the loss is nan at step 3")
    if (folder / "slow").exists():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
        (folder / f"started{slot}").touch()
        time.sleep(60)
    with (folder / "calls").open("a") as calls:
        calls.write(f"{slot} {start} {time.monotonic()} {' '.join(arguments)}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[sys.argv.index("-c") + 2 :])
