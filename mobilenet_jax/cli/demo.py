"""`mobilenet-jax demo`: builds a web page that classifies photographs on the device."""

import argparse
from os.path import expanduser
from typing import get_args

from mobilenet_jax.cli.arguments import Subparsers, add_checkpoint_option, parse_model, parse_path
from mobilenet_jax.export.formats import Quantization


def add_parser(commands: Subparsers) -> argparse.ArgumentParser:
    """Adds the command's parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "demo",
        help="build a web page that classifies photographs on the device",
        description="Writes a folder of static files for any web server. The page runs the network in the browser: "
        "photographs are not uploaded, and it works without a network once it is loaded. Requires an "
        "extra (pip install -e '.[export]') and, for the first build, npm.",
    )
    parser.add_argument("model", metavar="MODEL", type=parse_model, help="a workdir, or weights with a classifier")
    parser.add_argument("--out", type=parse_path, metavar="DIR", required=True, help="folder to write")
    parser.add_argument(
        "--quantize", choices=get_args(Quantization), default="none",
        help="float16 or int8: a smaller network, see `mobilenet-jax export --help` (default: none)",
    )  # fmt: skip
    parser.add_argument(
        "--data", type=expanduser, metavar="DIR", help="folder of the images of the run (default: as in training)"
    )
    parser.add_argument("--force", action="store_true", help="replace an existing page")
    parser.add_argument("--serve", action="store_true", help="open the page in the browser of this machine")
    add_checkpoint_option(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Builds the page, and serves it if requested."""
    from mobilenet_jax.demo.build import build_demo
    from mobilenet_jax.demo.serve import serve

    build_demo(
        args.model, args.out, quantize=args.quantize, checkpoint=args.checkpoint, data=args.data, force=args.force
    )
    print(args.out)
    if args.serve:
        serve(args.out)
