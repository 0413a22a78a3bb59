"""`mobilenet-jax push`: publishes an evaluated run on the Hugging Face Hub."""

import argparse
import logging
import tempfile
from pathlib import Path

from mobilenet_jax.cli.arguments import Subparsers, add_checkpoint_option, add_evaluation_option, parse_path

_logger = logging.getLogger(__name__)


def add_parser(commands: Subparsers) -> argparse.ArgumentParser:
    """Adds the command's parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "push",
        help="publish an evaluated run on the Hugging Face Hub",
        description="Uploads the files that `card` writes in one commit, and prints its URL. Repeat the command after "
        "an interruption: large files that have arrived are not sent again. Requires pip install -e '.[hub]' "
        "and a token: run `hf auth login` or set HF_TOKEN.",
    )
    parser.add_argument("workdir", metavar="WORKDIR", type=parse_path, help="an evaluated run")
    parser.add_argument("repository", metavar="OWNER/NAME", help="the repository; it is created if it does not exist")
    parser.add_argument("--private", action="store_true", help="create a private repository")
    parser.add_argument("--dry-run", action="store_true", help="print names and sizes of the files and upload nothing")
    parser.add_argument(
        "--file", type=parse_path, action="append", default=[], metavar="PATH", dest="files",
        help="another file to upload, such as an exported one, with its description PATH.json if there is one; may be "
        "repeated",
    )  # fmt: skip
    parser.add_argument(
        "--force", action="store_true", help="replace files of a repository whose model card is of another origin"
    )
    add_evaluation_option(parser)
    add_checkpoint_option(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Uploads the files and prints the URL of the commit, or lists them in a dry run."""
    from mobilenet_jax.evaluation.trained_run import read_trained_run
    from mobilenet_jax.reporting.publish import collect_files, upload
    from mobilenet_jax.weights.hub import import_hub, is_hub_location

    import_hub(args.repository)  # fails before the files are written
    with tempfile.TemporaryDirectory() as folder:
        trained_run = read_trained_run(args.workdir, args.checkpoint)
        files = collect_files(trained_run, args.evaluation, args.files, Path(folder))
        initial_weights = trained_run.config["init"]["weights"]
        if is_hub_location(initial_weights):
            _logger.warning(
                "the card names the initial weights %s, even if that repository is private", initial_weights
            )
        if args.dry_run:
            for name, path in files.items():
                print(f"{name:<24}{path.stat().st_size:>12,} bytes")
        else:
            print(upload(files, args.repository, private=args.private, force=args.force))
