"""Uploads the model card, the weights and other files of a run to the Hugging Face Hub."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from mobilenet_jax.errors import WeightsError
from mobilenet_jax.evaluation.trained_run import TrainedRun
from mobilenet_jax.reporting.model_card import write_model_card
from mobilenet_jax.weights.hub import LOGIN, import_hub, report_failures


def collect_files(run: TrainedRun, evaluation: str, more: Sequence[Path], folder: Path) -> dict[str, Path]:
    """Writes the model card with its files, and returns all files to upload by their names in the repository.

    Args:
        run: see `write_model_card`.
        evaluation: see `write_model_card`.
        more: files to add, such as exported ones, each with the description `NAME.json` beside it if there is one.
        folder: an existing folder for the files of the card.

    Raises:
        EvaluationError: see `write_model_card`.
        WeightsError: one of `more` is not a file, or two files have the same name.
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
    return files


def upload(files: Mapping[str, Path], repository: str, *, private: bool) -> str:
    """Uploads files in one commit to a repository, which is created if it does not exist.

    After an interrupted upload, large files that have already arrived are not sent again.

    Args:
        files: by their names in the repository.
        repository: `owner/name`.
        private: whether others may not see the repository. An existing one is not changed.

    Returns:
        The URL of the commit.

    Raises:
        WeightsError: there is no token or no permission, the Hub cannot be reached, or the repository is public but
            should be private.
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
            operations = [hub.CommitOperationAdd(name, os.fspath(path)) for name, path in files.items()]
            commit = api.create_commit(repository, operations, commit_message="Upload model with mobilenet-jax")
        except hub.errors.HfHubHTTPError as error:
            if error.response.status_code not in (401, 403):
                raise
            raise WeightsError(f"the token has no write access to {repository}: {LOGIN} with another one") from error
    return str(commit.commit_url)
