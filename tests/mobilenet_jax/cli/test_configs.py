from mobilenet_jax.training.config_files import list_shipped_configs


def test_each_configuration_has_one_line_with_its_description(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = run("configs")
    assert (status, err) == (0, "")
    rows = [line.split(maxsplit=1) for line in out.splitlines()]
    assert rows == [[config.name, config.summary] for config in list_shipped_configs()]
