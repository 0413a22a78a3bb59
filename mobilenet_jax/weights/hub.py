"""Downloads weights from the Hugging Face Hub into its own cache."""

import contextlib
import hashlib
import importlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from input_pipeline.errors import get_first_line
from mobilenet_jax.errors import WeightsError

LOGIN = "run `hf auth login` or set HF_TOKEN"
_PREFIX = "hf://"
_LOCATION = re.compile(r"hf://([^/@\s]+/[^/@\s]+)(?:@(\S+))?")
_WEIGHTS, _PICKLE = "model.safetensors", "pytorch_model.bin"
_DESCRIPTIONS = ("config.json", "preprocessor_config.json")
_MAX_MESSAGE = 200  # characters
_SHA256 = re.compile("[0-9a-f]{64}")


class HubFiles(NamedTuple):
    """The downloaded files of a repository.

    Attributes:
        path: `model.safetensors` in the cache of the Hub. The descriptions of the model, if there are any, are beside
            it.
        source: the location with the commit, such as `hf://owner/name@` and 40 digits.
    """

    path: Path
    source: str


def is_hub_location(location: str | Path) -> bool:
    """Returns whether a location is a repository on the Hub, `hf://owner/name[@revision]`."""
    return str(location).startswith(_PREFIX)


def strip_folder(location: str | Path) -> str:
    """Returns a file name without its folders, which are private; a location on the Hub stays whole."""
    return str(location) if is_hub_location(location) else os.path.basename(os.path.abspath(location))


def get_repository(location: str) -> str:
    """Returns the `owner/name` of a location.

    Raises:
        WeightsError: see `download`.
    """
    return _parse(location)[0]


def download(location: str) -> HubFiles:
    """Downloads the weights of a repository and the descriptions of the model, all of the same commit.

    Files in the cache are not downloaded again. They are also used if the server cannot be reached, or if
    `HF_HUB_OFFLINE=1` forbids requests. The token of the user, if there is one, is read by huggingface_hub.

    Args:
        location: `hf://owner/name[@revision]`; the revision is a branch, a tag, a commit, or a reference such as
            `refs/pr/1`.

    Raises:
        WeightsError: the location is malformed, huggingface_hub is not installed, or the weights do not exist, cannot
            be downloaded or are damaged. The message does not name the location.
    """
    repository, revision = _parse(location)
    hub = import_hub(repository)
    with report_failures():
        try:
            path = Path(hub.hf_hub_download(repository, _WEIGHTS, revision=revision))
        except hub.errors.RemoteEntryNotFoundError as error:
            raise WeightsError(_describe_missing_weights(repository, revision)) from error
        commit = path.parent.name
        for name in _DESCRIPTIONS:
            _download_if_present(repository, name, commit)
    _check_hash(path, repository, commit)
    return HubFiles(path, f"{_PREFIX}{repository}@{commit}")


def _parse(location: str) -> tuple[str, str | None]:
    match = _LOCATION.fullmatch(location)
    if not match or ".." in location:
        raise WeightsError("malformed location: use hf://OWNER/NAME or hf://OWNER/NAME@REVISION")
    return match[1], match[2]


def import_hub(repository: str) -> Any:
    """Returns the module huggingface_hub, which is optional, after validating the name and the token that it sends.

    Args:
        repository: the `owner/name` of the requests.

    Raises:
        WeightsError: the module is not installed, the name has another form, or the user's token contains characters
            that HTTP does not allow: the exception of a request would show it.
    """
    try:
        hub = importlib.import_module("huggingface_hub")
        from huggingface_hub.errors import HFValidationError, RemoteEntryNotFoundError  # noqa: F401 (since 1.0)
        from huggingface_hub.utils import validate_repo_id
    except ImportError as error:
        raise WeightsError(
            "huggingface_hub 1.0 or newer is not installed: run pip install -e '.[hub]' in the repository"
        ) from error
    except ValueError as error:  # it parses its variables when it is imported
        raise WeightsError(
            f"an environment variable of huggingface_hub, HF_..., has an invalid value ({get_first_line(error)})"
        ) from error
    token = hub.get_token() or ""
    if not (token.isascii() and token.isprintable()):
        raise WeightsError(f"the token of the Hub contains invalid characters: {LOGIN}")
    try:
        validate_repo_id(repository if "/" in repository else "")
    except HFValidationError as error:
        raise WeightsError(
            f"{repository!r} is not the name of a repository: use OWNER/NAME, of letters, digits, '-', '_' and '.'"
        ) from error
    return hub


def _download_if_present(repository: str, name: str, commit: str) -> None:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import RemoteEntryNotFoundError

    if try_to_load_from_cache(repository, name, revision=commit) is None:  # else the file, or its absence, is cached
        with contextlib.suppress(RemoteEntryNotFoundError):
            hf_hub_download(repository, name, revision=commit)


def _describe_missing_weights(repository: str, revision: str | None) -> str:
    from huggingface_hub import HfApi

    if HfApi().file_exists(repository, _PICKLE, revision=revision):
        return (
            f"it has no {_WEIGHTS}, only {_PICKLE}, a Python pickle, which is refused because it can execute arbitrary "
            f"code: try {_PREFIX}{repository}@refs/pr/1, where the Hub's conversion bot offers safetensors"
        )
    return f"it has no {_WEIGHTS}: name a repository or a revision that has it"


def _check_hash(path: Path, repository: str, commit: str) -> None:
    """Compares a file with its SHA-256 on the Hub, which names the file that the cache's link refers to.

    Small files have another hash there. On a file system without links, the hash is requested; without a connection,
    the file is not compared.
    """
    expected = Path(os.readlink(path)).name if path.is_symlink() else _request_hash(repository, commit)
    if _SHA256.fullmatch(expected):
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                raise WeightsError(f"{path.name} does not have its SHA-256: delete {path.resolve()} and try again")


def _request_hash(repository: str, commit: str) -> str:
    """Requests the hash of the weights; an empty one if the Hub cannot be reached."""
    from huggingface_hub import HfApi, hf_hub_url
    from huggingface_hub.errors import HTTPError

    with contextlib.suppress(HTTPError, OSError):
        url = hf_hub_url(repository, _WEIGHTS, revision=commit)
        return HfApi().get_hf_file_metadata(url=url).etag or ""
    return ""


@contextlib.contextmanager
def report_failures() -> Iterator[None]:
    """Turns the exceptions of huggingface_hub into errors of one line.

    Raises:
        WeightsError: a request was refused, a server cannot be reached, or a file cannot be read or written.
    """
    from huggingface_hub.errors import HTTPError  # unlike the errors of sockets, it is not an OSError

    try:
        yield
    except (HTTPError, ImportError, OSError, RuntimeError, ValueError) as error:
        raise WeightsError(_describe_failure(error)) from error


def _describe_failure(error: BaseException) -> str:
    """Returns the problem and its fix in one line, without the messages of HTTP clients, which contain URLs."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError | RuntimeError) and error.__cause__:
        error = error.__cause__  # it is not in the cache either, or it is one of several uploads
    match error:
        case errors.GatedRepoError():
            return f"its owner grants access on request: request it on the page of the repository, then {LOGIN}"
        case errors.RepositoryNotFoundError():
            return f"the repository does not exist or is private: check its name; to read a private one, {LOGIN}"
        case errors.RevisionNotFoundError():
            return "no such revision: use a branch, a tag or a commit of the repository"
        case errors.OfflineModeIsEnabled():
            return "HF_HUB_OFFLINE forbids requests, and the files are not all in the cache: unset it"
        case errors.HfHubHTTPError() if error.response.status_code in (401, 403):
            return f"the token has no permission ({_describe_answer(error)}): {LOGIN} with another one"
        case errors.HfHubHTTPError():
            return f"the Hub refused the request ({_describe_answer(error)}): try again later"
        case ImportError():  # httpx lacks a package for this kind of proxy
            return f"the proxy of HTTPS_PROXY or ALL_PROXY needs another package: {get_first_line(error)}"
        case errors.HTTPError():
            return (
                f"the connection to the Hub failed ({type(error).__name__}): check the network, and HF_ENDPOINT if set"
            )
    return " ".join(str(error).split()) or type(error).__name__


def _describe_answer(error: Any) -> str:
    message = " ".join((error.server_message or "").split())[:_MAX_MESSAGE]
    return f"status {error.response.status_code}" + (f", {message}" if message else "")
