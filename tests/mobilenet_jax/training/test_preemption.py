import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from mobilenet_jax.training import preemption
from mobilenet_jax.training.preemption import StopRequest


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
