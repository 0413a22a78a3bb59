import contextlib
import os
import pty
import termios
import time

import numpy as np

from mobilenet_jax.training.progress import ProgressBar
from mobilenet_jax.training.step import BatchResult


def _train(steps, steps_done):
    result = BatchResult(np.full(8, 0.25), np.zeros(8, int), np.arange(8) % 2, np.ones(8, bool))
    with ProgressBar("epoch 2/3", batch_size=8, steps=steps, steps_done=steps_done) as bar:
        for _ in range(steps - steps_done):
            time.sleep(0.15)  # the bar is drawn at most every 0.1 s
            bar.update(result)


def test_a_terminal_shows_the_progress_of_the_whole_epoch_and_the_last_batch():
    parent, child = pty.openpty()
    termios.tcsetwinsize(child, (24, 80))
    with open(child, "w") as terminal, contextlib.redirect_stderr(terminal):
        _train(steps=4, steps_done=1)
        shown = os.read(parent, 1 << 16).decode()
    os.close(parent)
    first, *others = [line for line in shown.split("\r") if line.strip()]
    assert others
    assert first.startswith("epoch 2/3  25% |")
    assert max(map(len, (first, *others))) <= 80
    for line in others:
        for part in (" images/s, ", " left, loss 0.250, accuracy 0.50"):
            assert part in line


def test_nothing_is_shown_without_a_terminal(capfd):
    _train(steps=4, steps_done=0)
    assert capfd.readouterr() == ("", "")
