"""However many devices and processes share the work, what comes out is the same.

In float64, so that the order of sums cannot hide an error: from ImageNet's weights at the article's rate, two runs that
differ by a rounding in their first step are a hundred million times as far apart after thirty.
"""

import os
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import ROOT, write_isic


@pytest.fixture(scope="module")
def run(weights, tmp_path_factory):
    """A function that trains with so many processes of so many devices."""
    folder = tmp_path_factory.mktemp("parallel")
    data = write_isic(folder / "isic")

    def train(processes, devices):
        out = folder / f"{processes}x{devices}.npz"
        command = [sys.executable, "-m", "tests.parallel_run", data, weights[0.25], out]
        env = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
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


@pytest.fixture(scope="module")
def alone(run):
    return run(1, 1)


@pytest.mark.parametrize(
    ("processes", "devices"), [pytest.param(1, 4, marks=pytest.mark.slow), (2, 2)], ids=["4 devices", "2 x 2 devices"]
)
def test_thirty_steps_and_ten_evaluations_do_not_depend_on_who_shares_them(run, alone, processes, devices):
    shared = run(processes, devices)
    assert (alone["devices"], shared["devices"]) == (1, 4)
    assert alone["step"] == shared["step"] == 30
    np.testing.assert_array_equal(shared["figures"][:, :2], alone["figures"][:, :2])  # counts
    np.testing.assert_allclose(shared["figures"], alone["figures"], rtol=1e-5)
    for name in alone.keys() - {"figures", "devices"}:
        assert np.linalg.norm(shared[name] - alone[name]) <= 1e-5 * np.linalg.norm(alone[name]), name
