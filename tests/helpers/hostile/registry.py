"""The collection of hostile files that each module of this package fills."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import h5py

from tests.helpers.weights_files import write_keras_2


class Case(NamedTuple):
    """A hostile file: a function that writes it to a path, and a part of the error that reading it raises."""

    write: Callable[[Path], None]
    message: str


class Cases(dict[str, Case]):
    """Cases by file name. A file is named after the function that writes it."""

    def add(self, message, suffix=".h5"):
        """Adds the decorated function, which writes a file to a path."""

        def decorate(function):
            self[function.__name__ + suffix] = Case(function, message)
            return function

        return decorate

    def add_keras_2(self, message):
        """Adds the decorated function, which changes an intact file of Keras 2 that is open in HDF5."""

        def decorate(function):
            def write(path):
                with h5py.File(write_keras_2(path), "r+") as file:
                    function(file)

            self[function.__name__ + ".h5"] = Case(write, message)
            return function

        return decorate
