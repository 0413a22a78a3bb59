import json
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from mobilenet_jax.errors import Interrupted, WorkdirError
from mobilenet_jax.training import preemption
from mobilenet_jax.training.checkpoints import Checkpoints
from mobilenet_jax.training.loop import train_and_evaluate
from mobilenet_jax.training.preemption import StopRequest
from mobilenet_jax.training.trainer import Trainer
from mobilenet_jax.weights.load import read_weights
from tests.helpers.runs import assert_equal_runs, make_config, read_records, request_stop


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """Returns the workdir of an uninterrupted run of two epochs; it must not be changed."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    train_and_evaluate(make_config(data), workdir)
    return workdir


class SyncPoint:
    """JAX's agreement between processes (`tsl/distributed_runtime/preemption/preemption_sync_manager.cc`).

    When one of them notices a signal, all are to stop at the same count, one more than the highest reached so far.
    """

    def __init__(self, processes):
        self.counts = [0] * processes
        self.agreed = None

    def notice_signal(self):
        self.agreed = max(self.counts) + 1

    def reach(self, process, count):
        self.counts[process] = count
        return count == self.agreed


@pytest.fixture
def processes(monkeypatch):
    """Returns the stop requests of two processes, and the synchronization point that they share."""
    sync_point, current = SyncPoint(2), [0]
    monkeypatch.setattr("jax.process_count", lambda: 2)
    monkeypatch.setattr(
        preemption.multihost_utils, "reached_preemption_sync_point", lambda step: sync_point.reach(current[0], step)
    )

    class Process(StopRequest):
        def __init__(self, number):
            super().__init__()
            self.number = number

        def end_step(self):
            current[0] = self.number
            super().end_step()

    return [Process(0), Process(1)], sync_point


@pytest.mark.parametrize("steps_before", range(4))
@pytest.mark.parametrize("ahead", range(2))
def test_processes_stop_after_the_same_step(processes, steps_before, ahead):
    """A run that continues from a later step counts from one as well; one process may be a step ahead."""
    requests, sync_point = processes
    for _ in range(steps_before):
        for request in requests:
            request.end_step()
            assert not request.is_set
    if ahead:
        requests[0].end_step()
    sync_point.notice_signal()
    stopped_after = []
    for request in requests:
        steps = steps_before + (ahead if request is requests[0] else 0)
        while not request.is_set and steps < 100:
            request.end_step()
            steps += 1
        stopped_after.append(steps)
    assert stopped_after == [steps_before + ahead + 1] * 2


def test_a_request_stays_set(processes):
    (request, _), sync_point = processes
    sync_point.notice_signal()
    request.end_step()
    assert request.is_set
    request.end_step()
    assert request.is_set


def test_an_evaluation_ends_at_the_same_batch_in_all_processes(processes):
    requests, sync_point = processes
    evaluations = [request.iterate_until_set(range(9)) for request in requests]
    assert [next(evaluation) for evaluation in evaluations] == [0, 0]
    assert next(evaluations[0]) == 1
    sync_point.notice_signal()
    assert [list(evaluation) for evaluation in evaluations] == [[], [1]]
    assert not list(requests[0].iterate_until_set(range(9)))


def test_sigterm_is_recorded_again_and_again_and_a_second_ctrl_c_interrupts():
    with StopRequest() as request:
        for _ in range(3):
            signal.raise_signal(signal.SIGTERM)
            assert request.is_set
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_in_another_thread_nothing_is_recorded():
    with ThreadPoolExecutor(1) as executor:
        assert not executor.submit(lambda: StopRequest().__enter__().is_set).result()


def test_an_interrupted_run_ends_like_the_whole_run(data, whole, tmp_path, monkeypatch, caplog):
    """Checks that metrics are computed from all examples of an epoch, and that evaluated states replace others."""
    config, interruptions = make_config(data), 0
    for steps in (1, 3, 3, 3, None):  # of training, evaluation, training, and the last evaluation
        with monkeypatch.context() as patch:
            request_stop(patch, steps)
            try:
                train_and_evaluate(config, tmp_path / "run")
            except Interrupted:
                interruptions += 1
    assert interruptions == 4
    assert_equal_runs(tmp_path / "run", whole)
    caplog.set_level("INFO")
    train_and_evaluate(config, tmp_path / "run")
    assert any(
        message.endswith(
            "is finished: raise config.train.epochs to train longer, or choose another --workdir for a new one"
        )
        for message in caplog.messages
    )


def test_the_last_state_is_the_best_one_without_validation_images(data, tmp_path, monkeypatch):
    config = make_config(data, data__split="all", train__epochs=1)
    steps = 5
    with monkeypatch.context() as patch:
        request_stop(patch, steps)
        with pytest.raises(Interrupted, match=f"stopped at step {steps} and saved"):
            train_and_evaluate(config, tmp_path / "run")
    train_and_evaluate(config, tmp_path / "run")
    assert read_weights(tmp_path / "run").identity == f"best checkpoint, step {steps}"
    [score] = (tmp_path / "run" / "checkpoints").glob("*/metrics/metrics")
    assert json.loads(score.read_text()) == {"score": 1}


def test_a_run_that_was_stopped_in_an_epoch_is_not_finished_before_it(data, tmp_path, monkeypatch):
    request_stop(monkeypatch, 6)
    with pytest.raises(Interrupted, match="stopped at step 4"):
        train_and_evaluate(make_config(data), tmp_path / "run")
    with pytest.raises(WorkdirError, match=r"has reached epoch 2, more than config\.train\.epochs=1"):
        train_and_evaluate(make_config(data, train__epochs=1), tmp_path / "run")


@pytest.mark.parametrize("steps", [3, 4])
def test_a_stop_request_at_the_last_step_of_an_epoch_does_not_wait_for_its_evaluation(
    data, tmp_path, monkeypatch, steps
):
    request_stop(monkeypatch, steps)
    with pytest.raises(Interrupted, match="stopped at step 3 and saved"):
        train_and_evaluate(make_config(data), tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_stop_request_after_an_evaluation_is_honored_after_its_epoch(data, tmp_path, monkeypatch):
    check_epoch = Trainer.check_epoch

    def check_with_signal(*args):
        signal.raise_signal(signal.SIGTERM)
        check_epoch(*args)

    monkeypatch.setattr(Trainer, "check_epoch", check_with_signal)
    with pytest.raises(Interrupted, match="stopped at step 3 and saved"):
        train_and_evaluate(make_config(data), tmp_path / "run")
    assert len(read_records(tmp_path / "run")) == 1


def test_a_second_sigterm_during_the_last_save_changes_nothing(data, whole, tmp_path, monkeypatch):
    close = Checkpoints.__exit__

    def close_with_signal(self, *error):
        signal.raise_signal(signal.SIGTERM)
        close(self, *error)

    with monkeypatch.context() as patch:
        request_stop(patch, 2)
        patch.setattr(Checkpoints, "__exit__", close_with_signal)
        with pytest.raises(Interrupted, match="stopped at step 2"):
            train_and_evaluate(make_config(data), tmp_path / "run")
    train_and_evaluate(make_config(data), tmp_path / "run")
    assert read_records(tmp_path / "run") == read_records(whole)
