"""Neither package needs a module that exists on POSIX systems only. Windows and macOS themselves are not tested."""

import subprocess
import sys

from tests.helpers.runs import ROOT

# Hides modules from the two packages only: other packages choose their modules by the system, which is still Linux.
_IMPORT_ALL = """
import builtins, importlib, pkgutil

HIDDEN = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
PACKAGES = ("input_pipeline", "mobilenet_jax")
import_any = builtins.__import__

def import_portable(name, globals=None, *args, **kwargs):
    if name in HIDDEN and (globals or {}).get("__name__", "").startswith(PACKAGES):
        raise ModuleNotFoundError(f"{globals['__name__']} imports {name}")
    return import_any(name, globals, *args, **kwargs)

builtins.__import__ = import_portable
for package in PACKAGES:
    for module in pkgutil.walk_packages([package], f"{package}."):
        importlib.import_module(module.name)
        print(module.name)
"""


def test_every_module_is_imported_without_modules_of_posix():
    result = subprocess.run([sys.executable, "-c", _IMPORT_ALL], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    files = [path for package in ("input_pipeline", "mobilenet_jax") for path in (ROOT / package).rglob("*.py")]
    assert len(result.stdout.split()) == len(files) - 2  # the two packages themselves are not listed
