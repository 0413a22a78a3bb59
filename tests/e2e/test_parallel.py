"""However many devices and processes share the work, what comes out is the same.

In float64, so that the order of sums cannot hide an error: from ImageNet's weights at the article's rate, two runs that
differ by a rounding in their first step are a hundred million times as far apart after thirty.
"""

import functools
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.helpers.datasets import write_isic
from tests.helpers.runs import ROOT, with_devices


@pytest.fixture(scope="module")
def run(weights, tmp_path_factory):
    """A function that trains with so many processes of so many devices."""
    folder = tmp_path_factory.mktemp("parallel")
    data = write_isic(folder / "isic")

    @functools.cache
    def train(processes, devices, epochs):
        out = folder / f"{processes}x{devices}x{epochs}.npz"
        command = [sys.executable, "-m", "tests.helpers.parallel_run", data, weights[0.25], str(epochs), out]
        env = with_devices(devices)
        cluster = [f"localhost:{20_000 + os.getpid() % 20_000}", str(processes)] if processes > 1 else []
        commands = [[*command, *cluster, *([str(i)] if cluster else [])] for i in range(processes)]
        running = [
            subprocess.Popen(c, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for c in commands
        ]
        errors = [process.communicate(timeout=300)[1] for process in running]
        assert [process.returncode for process in running] == [0] * processes, errors
        with np.load(out) as arrays:
            return dict(arrays)

    return train


SHARED = [pytest.param(2, 2, 2), *(pytest.param(n, 4 // n, 10, marks=pytest.mark.slow) for n in (1, 2))]


@pytest.mark.parametrize(("processes", "devices", "epochs"), SHARED)
def test_steps_and_evaluations_do_not_depend_on_who_shares_them(run, processes, devices, epochs):
    alone, shared = run(1, 1, epochs), run(processes, devices, epochs)
    assert (alone["devices"], shared["devices"]) == (1, 4)
    assert alone["step"] == shared["step"] == 3 * epochs
    np.testing.assert_array_equal(shared["figures"][:, :2], alone["figures"][:, :2])  # counts
    np.testing.assert_allclose(shared["figures"], alone["figures"], rtol=1e-5)
    for name in alone.keys() - {"figures", "devices"}:
        assert np.linalg.norm(shared[name] - alone[name]) <= 1e-5 * np.linalg.norm(alone[name]), name
