"""Trains a MobileNet as a configuration says.

python train.py --config=configs/mobilenet.py [--workdir=DIR] [--config.SECTION.KEY=VALUE ...]
"""

import os
import platform
import sys

if platform.libc_ver()[0] == "glibc" and "GLIBC_TUNABLES" not in os.environ:
    # A step frees and takes again hundreds of megabytes, and the kernel hands them out a page at a time unless malloc
    # asks for huge ones. Asking makes a step 1.2 to 1.3 times as fast on a CPU (benchmarks/train_step.py), but is read
    # only when a process starts, so this one starts anew.
    os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
    os.execv(sys.executable, sys.orig_argv)

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # spares 100 MB: no Keras is used, and TensorFlow then imports none

import contextlib
from pathlib import Path

import jax
import pooch
from absl import flags, logging

from mobilenet_jax.cli.error_boundary import run_as_command
from mobilenet_jax.config import parse_config
from mobilenet_jax.errors import ConfigError
from mobilenet_jax.sharding import connect
from mobilenet_jax.training.setup import ERRORS, train_and_evaluate

WORKDIR = flags.DEFINE_string("workdir", None, "Folder for all that comes out; runs/NAME-OF-CONFIG if not given.")
PROFILE = flags.DEFINE_bool("profile", False, "Leave a trace of ten steps in WORKDIR/profile, for TensorBoard.")
COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where no cluster says it.")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes there are, likewise.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0, likewise.")
flags.DEFINE_bool("debug", False, "Show the traceback of an error.")


def main() -> None:
    """Parses the command line and trains."""
    if "--help" in sys.argv:
        print(f"{__doc__}\n{flags.FLAGS.main_module_help()}")
        return
    config, name, rest = parse_config(sys.argv, flags.FLAGS)
    if rest:
        raise ConfigError(f"unexpected argument {rest[0]}")
    connect(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    with contextlib.redirect_stdout(None) if jax.process_index() else contextlib.nullcontext():  # the first one says it
        train_and_evaluate(config, WORKDIR.value or Path("runs") / name, profile=PROFILE.value)


if __name__ == "__main__":
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(Path(pooch.os_cache("mobilenet-jax")) / "compiled"))
    logging.set_verbosity("fatal")  # what goes wrong is told in a line by run_as_command
    run_as_command(main, ERRORS, debug="--debug" in sys.argv)
