"""Counts faults, for the summary that `python -m benchmarks.faults` prints."""

import pytest


class Tally:
    """Counts the faults of one kind that a test tries, and what did not survive them."""

    def __init__(self):
        self.tried = 0
        self.lost = []

    def count(self, problem=None):
        """Counts a fault, and its problem unless it was survived."""
        self.tried += 1
        if problem:
            self.lost.append(problem)


@pytest.fixture
def tally(record_property):
    """Returns a function that returns the tally of a kind of fault; at the end, nothing may be lost."""
    tallies = {}
    yield lambda kind: tallies.setdefault(kind, Tally())
    for kind, tally in tallies.items():
        record_property("fault", f"{kind}|{tally.tried}|{tally.tried - len(tally.lost)}|{len(tally.lost)}")
    assert not any(tally.lost for tally in tallies.values()), {kind: tally.lost for kind, tally in tallies.items()}
