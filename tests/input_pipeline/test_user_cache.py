import pytest

from input_pipeline.errors import UserError
from input_pipeline.user_cache import create_cache_folder, get_cache_folder


def test_an_unwritable_cache_names_the_variable_that_moves_it(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"cannot write the cache folder .*decoded \(Not a dir.*\): set XDG_CACHE_HO"):
        create_cache_folder("decoded")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert create_cache_folder("decoded/x") == get_cache_folder("decoded/x") == tmp_path / "mobilenet-jax/decoded/x"
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(UserError, match="permission denied"):
        create_cache_folder("decoded/x")
