"""Files of no supported format, and files that are cut short."""

import os
import pickle
import zipfile

from tests.helpers.hostile.registry import Cases
from tests.helpers.weights_files import write_keras_2

PICKLE_MARKER = "/tmp/a_pickle_was_loaded"  # created by the pickles below when they are loaded
CASES = Cases()


class Evil:
    def __reduce__(self):
        return os.system, (f"touch {PICKLE_MARKER}",)


@CASES.add("damaged")
def truncated(path):
    write_keras_2(path)
    os.truncate(path, path.stat().st_size // 2)


@CASES.add("an empty file")
def empty(path):
    path.touch()


@CASES.add("not a weights file: expected HDF5")
def text(path):
    path.write_text("no weights\n" * 100)


@CASES.add("damaged")
def only_a_signature(path):
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(50))


@CASES.add("refusing to load a Python pickle")
def a_pickle(path):
    path.write_bytes(pickle.dumps(Evil()))


@CASES.add("refusing to load a Python pickle", ".safetensors")
def a_pickle_with_another_suffix(path):
    path.write_bytes(pickle.dumps(Evil()))


@CASES.add("not a .keras file: a zip archive without model.weights.h5")
def a_zip_of_something_else(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", pickle.dumps(Evil()))


@CASES.add("not a regular file")
def a_pipe(path):
    os.mkfifo(path)
