import pytest

from mobilenet_jax.training.profiling import Profiler


def test_a_run_that_is_too_short_for_a_trace_is_a_warning(tmp_path, caplog):
    profiler = Profiler(tmp_path / "profile")
    for _ in range(3):
        profiler.start_step(None)
    profiler.end_run()
    assert caplog.messages == ["no trace: it starts after 5 steps, and there were 3"]


def test_without_a_folder_there_is_no_warning(caplog):
    Profiler(None).end_run()
    assert caplog.messages == []


def test_an_error_in_an_epoch_ends_its_trace(tmp_path):
    for name in ("first", "second"):  # JAX refuses a second trace while one is running
        with pytest.raises(RuntimeError, match="diverged"):
            _diverge(Profiler(tmp_path / name))


def _diverge(profiler):
    with profiler.trace_epoch():
        for _ in range(6):
            profiler.start_step(None)
        raise RuntimeError("the run diverged")
