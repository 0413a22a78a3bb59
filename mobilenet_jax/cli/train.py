"""`mobilenet-jax train`, which is also `python train.py`: trains a model as a configuration specifies."""

import argparse
import atexit
import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from os.path import expanduser
from pathlib import Path
from types import FrameType

from mobilenet_jax.cli.arguments import Subparsers, add_config_option
from mobilenet_jax.cli.error_boundary import EXIT_RESUMABLE
from mobilenet_jax.cli.logs import configure_logging
from mobilenet_jax.cli.malloc import configure_malloc


def add_parser(commands: Subparsers) -> argparse.ArgumentParser:
    """Adds the command's parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "train",
        help="train a model",
        description="Trains, evaluates after every epoch, and writes metrics and checkpoints to WORKDIR. The same "
        "command continues a run that was stopped.",
        allow_abbrev=False,
    )
    add_config_option(parser)
    parser.add_argument(
        "--workdir", type=expanduser, metavar="DIR", help="output folder (default: runs/NAME-OF-CONFIG)"
    )
    parser.add_argument("--profile", action="store_true", help="write a trace of ten steps to WORKDIR/profile")
    cluster = parser.add_argument_group(
        "clusters", "not needed under Slurm and Open MPI 4, on a TPU pod, or with GKE's TPUs"
    )
    cluster.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
    cluster.add_argument("--num_processes", type=int, metavar="N", help="number of processes")
    cluster.add_argument("--process_id", type=int, metavar="I", help="index of this process, from 0")
    return parser


def run(args: argparse.Namespace) -> None:
    """Connects the processes of a cluster, parses the configuration, and trains; compiled steps are cached on disk.

    From here on, SIGTERM ends the process with the status of a command that can be started again.
    """
    signal.signal(signal.SIGTERM, _exit_resumable)
    atexit.register(signal.signal, signal.SIGTERM, signal.SIG_IGN)  # Python would set the default action: to kill
    configure_malloc()
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # saves 100 MB: TensorFlow then does not import Keras
    import jax

    from input_pipeline.user_cache import get_cache_folder
    from mobilenet_jax.cluster import connect_processes, end_together
    from mobilenet_jax.training.config import parse_config
    from mobilenet_jax.training.loop import train_and_evaluate

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(get_cache_folder("compiled")))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # many small programs precede the first step
    with _exit_at_sigterm():
        connect_processes(args.coordinator, args.num_processes, args.process_id)
    with end_together():
        if jax.process_index() > 0:
            configure_logging(logging.ERROR)  # the first process logs the same warnings
        config, name = parse_config(args.config, args.overrides)
        train_and_evaluate(config, args.workdir or Path("runs") / name, profile=args.profile)


@contextlib.contextmanager
def _exit_at_sigterm() -> Iterator[None]:
    """Lets SIGTERM end the process while C++ code waits for other processes, where Python runs no handler."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    previous = signal.set_wakeup_fd(writer.fileno())  # receives the number of each signal at once

    def wait() -> None:
        while number := reader.recv(1):
            if number[0] == signal.SIGTERM:
                _exit_resumable(number[0], None)
        reader.close()

    threading.Thread(target=wait, daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous)
        writer.close()


def _exit_resumable(number: int, frame: FrameType | None) -> None:
    """Handles SIGTERM before and after training, when there is nothing to save."""
    os.write(2, b"stopped: run the same command again to start or to continue\n")
    os._exit(EXIT_RESUMABLE)
