"""Tries all faults of `tests/faults`, and prints a table of those that were survived.

    python -m benchmarks.faults [FILE...] > benchmarks/results/faults.md

FILE limits the table to some files, such as `tests/faults/test_disk.py`. The whole table takes hours. The status is 1
if a test failed.
"""

import argparse
import platform
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import defaultdict
from pathlib import Path

import jax


def main() -> None:
    """Runs the tests, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", default=["tests/faults"])
    args = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-m",
            "slow or not slow",
            "-o",
            "junit_family=xunit1",
            f"--junitxml={report}",
            *args.files,
        ]
        status = subprocess.run(command, stdout=sys.stderr).returncode
        suite = ET.parse(report).getroot()[0]
    hours = (time.monotonic() - start) / 3600
    print("# Faults\n")
    print(f"`python -m benchmarks.faults{' ' * bool(sys.argv[1:])}{' '.join(sys.argv[1:])}`, Python")
    print(
        f"{platform.python_version()}, JAX {jax.__version__}, {platform.machine()} with {jax.device_count()} device(s),"
    )
    counts = f"{suite.get('tests')} tests, {suite.get('failures')} failed, {suite.get('skipped')} skipped"
    print(f"{hours:.1f} hours: {counts}.\n")
    print("| fault | tried | survived | lost |\n|---|---|---|---|")
    for kind, numbers in count_faults(suite).items():
        print(f"| {kind} | {' | '.join(map(str, numbers))} |")
    sys.exit(status)


def count_faults(suite: ET.Element) -> dict[str, list[int]]:
    """Returns the numbers of faults tried, survived and lost, by their kind."""
    totals: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for entry in suite.iter("property"):
        if entry.get("name") == "fault":
            kind, *counts = entry.get("value", "").split("|")
            totals[kind] = [total + int(count) for total, count in zip(totals[kind], counts, strict=True)]
    return totals


if __name__ == "__main__":
    main()
