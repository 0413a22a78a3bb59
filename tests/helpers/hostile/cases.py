"""All hostile files."""

from tests.helpers.hostile import archives, descriptions, files, folders, hdf5, libraries, safetensors, tensors

MODULES = (files, folders, hdf5, tensors, descriptions, archives, safetensors, libraries)
CASES = {name: case for module in MODULES for name, case in module.CASES.items()}
