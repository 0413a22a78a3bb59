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
