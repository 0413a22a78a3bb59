"""Uploads the model card, the weights and other files of a run to the Hugging Face Hub."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mobilenet_jax.errors import WeightsError
from mobilenet_jax.evaluation.trained_run import TrainedRun
from mobilenet_jax.reporting.model_card import is_model_card, write_model_card
from mobilenet_jax.weights.hub import LOGIN, import_hub, report_failures
from mobilenet_jax.weights.weights_file import compute_sha256


def collect_files(run: TrainedRun, evaluation: str, more: Sequence[Path], folder: Path) -> dict[str, Path]:
    """Writes the model card with its files, and returns all files to upload by their names in the repository.

    Args:
        run: see `write_model_card`.
        evaluation: see `write_model_card`.
        more: files to add, such as exported ones, each with the description `NAME.json` beside it if there is one.
        folder: an existing folder for the files of the card.

    Raises:
        EvaluationError: see `write_model_card`.
        WeightsError: one of `more` is not a file or is the export of another model, or two files have the same name.
    """
    write_model_card(run, evaluation, folder)
    paths = sorted(folder.iterdir())
    for path in more:
        description = path.with_name(f"{path.name}.json")
        paths += [path, description] if description.is_file() else [path]
    files: dict[str, Path] = {}
    for path in paths:
        if not path.is_file():
            raise WeightsError(f"{path} is not a file")
        if files.get(path.name, path) != path:
            raise WeightsError(f"{path} has the name of another file in the repository: rename it")
        files[path.name] = path
    for path in more:
        _check_export(path, run)
    return files


def _check_export(path: Path, run: TrainedRun) -> None:
    """Checks that the description beside an exported file, if there is one, is that of the file and of the run."""
    try:
        description = json.loads(path.with_name(f"{path.name}.json").read_text(encoding="utf-8"))
        expected = {"sha256": compute_sha256(path), "source": run.weights.metadata.source}
        differing = [key for key, value in expected.items() if description.get(key, value) != value]
    except (OSError, ValueError, AttributeError, RecursionError):  # not a description of an export
        return
    if differing:
        raise WeightsError(
            f"{path} is not the export of {run.weights.metadata.source}, since {differing[0]} differs in its "
            "description: export the run again"
        )


def upload(files: Mapping[str, Path], repository: str, *, private: bool, force: bool) -> str:
    """Uploads files in one commit to a repository, which is created if it does not exist.

    After an interrupted upload, large files that have already arrived are not sent again.

    Args:
        files: by their names in the repository.
        repository: `owner/name`.
        private: whether others may not see the repository. An existing one is not changed.
        force: whether to replace the files of a repository whose card is not of this project.

    Returns:
        The URL of the commit.

    Raises:
        WeightsError: there is no token or no permission, the Hub cannot be reached, or the repository is public but
            should be private, or holds another model.
    """
    hub = import_hub(repository)
    if hub.constants.HF_HUB_OFFLINE:
        raise WeightsError("HF_HUB_OFFLINE forbids uploads: unset it")
    if not hub.get_token():
        raise WeightsError(f"no token of the Hub was found: {LOGIN}, with write access")
    with report_failures():
        api = hub.HfApi()
        try:
            api.create_repo(repository, private=private or None, exist_ok=True)
            if private and not api.model_info(repository).private:
                raise WeightsError(f"{repository} exists and is public: change it on its page, or omit --private")
            if not force and _holds_other_model(hub, repository):
                raise WeightsError(
                    f"{repository} has a model card of another origin: choose another name, or replace its files with "
                    "--force"
                )
            operations = [hub.CommitOperationAdd(name, os.fspath(path)) for name, path in files.items()]
            commit = api.create_commit(repository, operations, commit_message="Upload model with mobilenet-jax")
        except hub.errors.HfHubHTTPError as error:
            if error.response.status_code not in (401, 403):
                raise
            raise WeightsError(f"the token has no write access to {repository}: {LOGIN} with another one") from error
    return str(commit.commit_url)


def _holds_other_model(hub: Any, repository: str) -> bool:
    """Returns whether a repository has a card that `card` did not write."""
    try:
        card = hub.hf_hub_download(repository, "README.md")
    except (hub.errors.EntryNotFoundError, hub.errors.RevisionNotFoundError):  # a new one has no branch
        return False
    return not is_model_card(Path(card).read_text(encoding="utf-8", errors="replace"))
