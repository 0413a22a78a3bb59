"""Times implementations in processes of their own, which take turns, so that all meet the same load of the machine."""

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple


class Side(NamedTuple):
    """The command of a process that calls `serve`, and its environment."""

    command: Sequence[str]
    environment: Mapping[str, str]


class Timing(NamedTuple):
    """The seconds per step of each round, and the peak of the process's memory in bytes."""

    seconds: list[float]
    memory: int


class Comparison(NamedTuple):
    """The timings of a side and of the reference that took turns with it."""

    side: Timing
    reference: Timing


def repeat(step: Callable[[], object]) -> Callable[[int], None]:
    """Returns a function that calls `step` N times."""

    def run_steps(steps: int) -> None:
        for _ in range(steps):
            step()

    return run_steps


def serve(run_steps: Callable[[int], None], warm_up: int = 3) -> None:
    """Reads a number N from each line of stdin, runs N steps, and prints the seconds."""
    run_steps(warm_up)
    for line in sys.stdin:
        start = time.perf_counter()
        run_steps(int(line))
        seconds = time.perf_counter() - start
        print("seconds", seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, flush=True)


def time_in_turns(sides: Mapping[str, Side], rounds: int, steps: int) -> dict[str, Timing]:
    """Times `rounds` rounds of `steps` steps of each side, after one round that does not count."""
    children = {
        name: subprocess.Popen(
            side.command, env=side.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for name, side in sides.items()
    }
    timings = {name: Timing([], 0) for name in sides}
    for _ in range(rounds + 1):
        for name, child in children.items():
            assert child.stdin
            assert child.stdout
            child.stdin.write(f"{steps}\n")
            child.stdin.flush()
            line = next(line for line in child.stdout if line.startswith("seconds")).split()
            timings[name] = Timing([*timings[name].seconds, float(line[1]) / steps], int(line[2]))
    for child in children.values():
        child.communicate()
    return {name: Timing(timing.seconds[1:], timing.memory) for name, timing in timings.items()}


def compare(sides: Mapping[str, Side], reference: str, rounds: int, steps: int) -> dict[str, Comparison]:
    """Times each side in turns with the reference alone: more than two processes could fill the memory."""
    comparisons = {}
    for name in sides:
        if name != reference:
            timings = time_in_turns({key: sides[key] for key in (reference, name)}, rounds, steps)
            comparisons[name] = Comparison(timings[name], timings[reference])
    return comparisons


def format_table(comparisons: Mapping[str, Comparison], images: int, reference: str) -> str:
    """Formats a Markdown table.

    Args:
        comparisons: as `compare` returns them.
        images: the number of images per step.
        reference: the name of the side that the others are compared with, round by round.
    """
    lines = [
        f"| side | images/s: median | lowest | highest | {reference}, in the same rounds | ratio: median of rounds "
        f"| lowest | highest | peak memory, MB | {reference} |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, (side, other) in comparisons.items():
        speeds = [images / seconds for seconds in side.seconds]
        ratios = [theirs / own for own, theirs in zip(side.seconds, other.seconds, strict=True)]
        cells = [f"{value:,.1f}" for value in (statistics.median(speeds), min(speeds), max(speeds))]
        cells += [f"{images / statistics.median(other.seconds):,.1f}"]
        cells += [f"{value:.2f}" for value in (statistics.median(ratios), min(ratios), max(ratios))]
        cells += [f"{timing.memory / 1e6:,.0f}" for timing in (side, other)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)
