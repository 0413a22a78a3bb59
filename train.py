"""Trains a MobileNet as a configuration specifies.

python train.py --config=configs/mobilenet.py [--workdir=DIR] [--config.SECTION.KEY=VALUE ...]
"""

import sys

from mobilenet_jax.cli.main import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
