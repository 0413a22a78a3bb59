"""Files on disk to batches of images. Imports TensorFlow when it is first needed, never JAX nor `mobilenet_jax`."""

from input_pipeline.augment import Augmentation
from input_pipeline.batches import eval_batches, train_batches
from input_pipeline.cache import Cache, open_cache
from input_pipeline.errors import DataError
from input_pipeline.examples import Examples
from input_pipeline.sources.folders import write_folders
from input_pipeline.sources.registry import read_examples, read_split
from input_pipeline.splits import as_table, crossing_lesions, split_examples, table_hash
from input_pipeline.validation import check_images

__all__ = [
    "Augmentation",
    "Cache",
    "DataError",
    "Examples",
    "as_table",
    "check_images",
    "crossing_lesions",
    "eval_batches",
    "open_cache",
    "read_examples",
    "read_split",
    "split_examples",
    "table_hash",
    "train_batches",
    "write_folders",
]
