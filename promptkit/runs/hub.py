"""Runs on the Hugging Face hub: their three files, and nothing that could be executed, go there and come back."""

import logging
import os
import re
import shutil
import socket
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from promptkit.errors import CheckpointError, ConfigError, OutputError
from promptkit.files import cache_folder, writing
from promptkit.hub import reached
from promptkit.runs.checkpoint import LOG, SETTINGS, WEIGHTS, read_metadata, read_tensors
from promptkit.runs.status import read_saved

log = logging.getLogger("promptkit")

SCHEMA = "hf-hub:"
FILES = (WEIGHTS, SETTINGS, LOG)
CARD = "README.md"


def local_run(run: Path | str) -> Path:
    """The folder of a run: for "hf-hub:ORG/NAME", or "hf-hub:ORG/NAME@REVISION", that of a copy, fetched if it changed.

    The copy is in promptkit's cache, and without a network it is used as it is. Raises CheckpointError when the hub has
    no such run and there is no copy.
    """
    name = str(run)
    if not name.startswith(SCHEMA):
        return Path(run)
    name = name.removeprefix(SCHEMA)
    folder = cache_folder() / "runs" / name
    try:
        pull(name, folder, replace=True)
    except (CheckpointError, OutputError) as error:
        if not (folder / WEIGHTS).exists():
            raise
        log.warning("%s; using the copy in %s", error.message, folder)
    return folder


def pull(name: str, folder: Path, replace: bool = False) -> None:
    """Fetch a run into a folder, which appears whole or not at all.

    Args:
        name: "ORG/NAME", with "@REVISION" if it is not the newest.
        folder: For the run.
        replace: What it held before.

    Raises:
        CheckpointError: When the hub has no such run, can't be reached, or what it has is no sound run.
        OutputError: When the folder holds something already, or can't be written.
    """
    from huggingface_hub import hf_hub_download

    hint = "make room, or name another folder with PROMPTKIT_CACHE" if replace else "choose another --out, or make room"
    endpoint = reached(CheckpointError)
    repository, _, revision = checked(name).partition("@")
    with writing(folder, hint):
        if folder.exists() and any(folder.iterdir()) and not replace:
            raise OutputError(f"{folder} exists already", hint)
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.absolute().parent))
    try:
        with writing(folder, hint):
            for file in FILES:
                with _explained(endpoint, repository, f"{file} of {repository}"):
                    found = hf_hub_download(repository, file, revision=revision or None, endpoint=endpoint)
                shutil.copyfile(found, fresh / file)
            read_saved(fresh)
            read_metadata(fresh)
            read_tensors(fresh)
            if replace:
                folder.mkdir(parents=True, exist_ok=True)
                for file in FILES:
                    (fresh / file).replace(folder / file)
            else:
                fresh.chmod(0o755)
                fresh.replace(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def push(run: Path, name: str, card: str, private: bool = False) -> str:
    """Upload a finished run's files with a model card, in one commit, to a repository that is made if it isn't there.

    Returns where it is. Raises CheckpointError for a run that is not finished, and when the hub takes nothing.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    repository, endpoint = checked(name), reached(CheckpointError)
    if not read_metadata(run).finished:
        raise CheckpointError(f"{run} is not finished", "go on with promptkit train --resume")
    read_tensors(run)
    files = [CommitOperationAdd(file, run / file) for file in FILES if os.path.lexists(run / file)]
    api = HfApi(endpoint=endpoint)
    with _explained(endpoint, repository, f"{run}, to {repository}"):
        api.create_repo(repository, private=private, exist_ok=True)
        message = f"Run of promptkit: {read_metadata(run).recipe}"
        api.create_commit(repository, [*files, CommitOperationAdd(CARD, card.encode())], commit_message=message)
    return f"{endpoint}/{repository}"


def checked(name: str) -> str:
    """Raises ConfigError for a name that no repository has."""
    repository = name.partition("@")[0]
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repository, re.ASCII) or ".." in repository or "--" in repository:
        raise ConfigError(f"{name!r} names no repository of the hub", "expected ORG/NAME, such as me/pets-gopro")
    return name


@contextmanager
def _explained(endpoint: str, repository: str, what: str) -> Iterator[None]:
    """Raises CheckpointError with what to do where the hub refuses or isn't there."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        raise CheckpointError(f"{repository} is gated", f"ask for access at {endpoint}/{repository}") from None
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.EntryNotFoundError) as error:
        missing = isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError)
        if missing:
            raise CheckpointError(
                f"{endpoint}/{repository} holds no run of promptkit", "promptkit push puts one there"
            ) from None
        if isinstance(error, errors.LocalEntryNotFoundError):
            raise CheckpointError(f"{endpoint} can't be reached", "check the network, or HF_ENDPOINT") from None
        raise CheckpointError(
            f"no repository {repository} at {endpoint}, or it is private",
            "check the name, or log in: hf auth login",
        ) from None
    except errors.LocalTokenNotFoundError:
        raise CheckpointError(f"{endpoint} asks who you are", "log in with hf auth login, or set HF_TOKEN") from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status in (401, 403):
            raise CheckpointError(
                f"{endpoint} refuses {what}: {status}", "log in with hf auth login; may you write there?"
            ) from None
        raise CheckpointError(f"{endpoint} refuses {what}: {error}", "try again later") from None
    except OSError as error:
        if not isinstance(error, ConnectionError | TimeoutError | socket.gaierror | ssl.SSLError):
            raise
        raise CheckpointError(f"{endpoint} can't be reached: {error}", "check the network, or HF_ENDPOINT") from None
    except Exception as error:  # the client's own, which it hands through
        if not type(error).__module__.startswith(("httpx", "httpcore", "requests")):
            raise
        raise CheckpointError(f"{endpoint} can't be reached: {error}", "check the network, or HF_ENDPOINT") from None
