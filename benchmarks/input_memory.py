"""Measures the resident memory of a process that reads epoch after epoch, without a cache.

python -m benchmarks.input_memory --data DIR [--epochs 3]

DIR is in the ISIC archive's layout. Images are augmented as in the article, 224 x 224, in batches of 32.
"""

import argparse

import cv2
import numpy as np
import psutil
import tensorflow as tf

from benchmarks.input_pipeline import ARTICLE, BATCH_SIZE, OPTIONS
from input_pipeline.batches import make_train_batches
from input_pipeline.sources.registry import read_examples


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--epochs", type=int, default=3)
    args = parser.parse_args()
    process = psutil.Process()
    rows = [("libraries imported", process.memory_info().rss)]
    examples = read_examples("isic2018", args.data)
    steps = len(examples) // BATCH_SIZE
    batches = make_train_batches(examples, ARTICLE, OPTIONS, first_step=0, last_step=args.epochs * steps)
    for step, _ in enumerate(batches, start=1):
        if step % steps == 0:
            rows.append((f"epoch {step // steps}", process.memory_info().rss))
    print(f"tensorflow {tf.__version__} opencv {cv2.__version__} numpy {np.__version__}; {len(examples)} images\n")
    print("| after | resident MB |\n|---|---|")
    for name, size in rows:
        print(f"| {name} | {size / 1e6:.0f} |")


if __name__ == "__main__":
    main()
