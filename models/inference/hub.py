"""From what the user wrote to a folder on this machine: a folder stays, a hub model is fetched.

`HF_TOKEN`, `HF_HOME`, `HF_ENDPOINT` and `HF_HUB_OFFLINE` are honoured by huggingface_hub itself.
"""

from __future__ import annotations

import fnmatch
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import httpx
from huggingface_hub import HfApi, ModelInfo, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils._validators import validate_repo_id
from tqdm import tqdm  # type: ignore[import-untyped]

from models.errors import ModelLoadError

Progress = Callable[[str], None]

LOOKUP_TIMEOUT_S = 12.0
"""Longest that the hub may take to say which files a model has."""
REPORT_INTERVAL_S = 1.0

TEXT_FILES = ("*.json", "*.txt", "*.model")
WEIGHTS = ("model*.safetensors", "[0-9]*/model.safetensors")
PICKLED_WEIGHTS = ("pytorch_model*.bin", "[0-9]*/pytorch_model.bin")

T = TypeVar("T")


def find_folder(
    spec: str,
    *,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
    timeout_s: float = LOOKUP_TIMEOUT_S,
) -> Path:
    """Return the folder of a checkpoint; a model of the hub is fetched into its cache first.

    Args:
        spec: a folder, or else a model id of the hub with optional `@revision`.
        timeout_s: longest to wait for the hub's first answer.

    Raises:
        ModelLoadError: there is no such folder, or the hub cannot give the model.
    """
    folder = Path(spec).expanduser()
    if spec and folder.is_dir():
        return folder
    if folder.is_file():
        raise ModelLoadError(f"{spec} is a file; give the folder that holds the checkpoint")
    repo, _, revision = spec.partition("@")
    beside_folder = folder.parent != Path() and folder.parent.is_dir()
    if spec.startswith((".", "/", "~")) or repo.count("/") > 1 or beside_folder:
        raise ModelLoadError(f"{spec}: no such folder")
    try:
        validate_repo_id(repo)
    except HFValidationError:
        raise ModelLoadError(
            f"{spec} is neither a folder nor a model id of the hub such as owner/name"
        ) from None
    report = progress or (lambda _: None)
    report(f"{spec}: looking it up on {constants.ENDPOINT}")
    try:
        info = _within(
            timeout_s,
            lambda: HfApi().model_info(
                repo, revision=revision or None, timeout=timeout_s, files_metadata=True
            ),
        )
    except (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ModelLoadError(_refusal(spec, repo, revision, error)) from None
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        return _cached(spec, repo, revision, error)
    return _fetch(spec, repo, revision, info, allow_pickle, trust_remote_code, report)


def choose_files(
    names: Sequence[str], *, allow_pickle: bool = False, trust_remote_code: bool = False
) -> list[str]:
    """Choose the files of a hub model that serving needs, without other formats and copies.

    Raises:
        ModelLoadError: its weights are pickled and `allow_pickle` is off, or it has none.
    """

    def matching(*patterns: str) -> list[str]:
        return [
            name
            for name in names
            if name.count("/") < 2
            and any(
                fnmatch.fnmatch(name, pattern) and pattern.count("/") == name.count("/")
                for pattern in patterns
            )
        ]

    in_modules = [f"[0-9]*/{pattern}" for pattern in TEXT_FILES]
    weights = matching(*WEIGHTS)
    pickled = matching(*PICKLED_WEIGHTS)
    if not weights and not pickled:
        raise ModelLoadError("it has no weights that transformers reads (model.safetensors)")
    if not weights and not allow_pickle:
        raise ModelLoadError(PICKLE_REFUSED)
    # A module folder may be pickled where the encoder is not; loading says so if it matters.
    weights += [name for name in pickled if allow_pickle and (not weights or "/" in name)]
    code = matching("*.py") if trust_remote_code else []
    return sorted(matching(*TEXT_FILES, *in_modules) + weights + code)


PICKLE_REFUSED = (
    "its weights are pickled, which can run code; convert them to safetensors, or set "
    "BERTSTREAM_ALLOW_PICKLE=true if you trust them"
)


def _fetch(
    spec: str,
    repo: str,
    revision: str,
    info: ModelInfo,
    allow_pickle: bool,
    trust_remote_code: bool,
    report: Progress,
) -> Path:
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    try:
        files = choose_files(
            list(sizes), allow_pickle=allow_pickle, trust_remote_code=trust_remote_code
        )
    except ModelLoadError as error:
        raise ModelLoadError(f"{spec}: {error}") from None
    report(f"{spec}: {len(files)} files, {sum(sizes[name] for name in files) / 1e6:,.0f} MB")
    try:
        return Path(
            snapshot_download(
                repo,
                # By its name, so that the cache knows what the name stands for when offline.
                revision=revision or None,
                allow_patterns=[_literal(name) for name in files],
                tqdm_class=_reporting_bar(spec, report),
            )
        )
    except (HfHubHTTPError, httpx.HTTPError, OSError, RuntimeError) as error:
        raise ModelLoadError(f"{spec}: the download failed: {_first_line(error)}") from None


def _cached(spec: str, repo: str, revision: str, error: Exception) -> Path:
    """The folder of an earlier download, for when the hub does not answer."""
    try:
        return Path(snapshot_download(repo, revision=revision or None, local_files_only=True))
    except LocalEntryNotFoundError:
        if constants.HF_HUB_OFFLINE:
            why = "HF_HUB_OFFLINE is set"
        elif isinstance(error, HfHubHTTPError):
            why = f"{constants.ENDPOINT} answers with status {error.response.status_code}"
        else:
            why = f"{constants.ENDPOINT} does not answer ({_first_line(error)})"
        raise ModelLoadError(
            f"{spec}: no such folder, no copy in the hub cache, and {why}; give a folder, "
            "or check the network"
        ) from None


def _refusal(spec: str, repo: str, revision: str, error: Exception) -> str:
    if isinstance(error, GatedRepoError):
        return f"{spec}: the hub gives it only to accounts that were let in; set HF_TOKEN"
    if isinstance(error, RevisionNotFoundError):
        return f"{spec}: {repo} has no revision {revision!r} on the hub"
    return (
        f"{spec}: there is no such folder, and no such model on the hub "
        "(for a private one set HF_TOKEN)"
    )


def _within(timeout_s: float, function: Callable[[], T]) -> T:
    """Run `function` and give up after `timeout_s`.

    The timeout of an HTTP client counts for each address of a host, and not for looking the host
    up, hence the thread; it is a daemon, so that it never keeps the process.
    """
    outcome: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()

    def run() -> None:
        try:
            outcome.put((function(), None))
        except BaseException as error:
            outcome.put((None, error))

    threading.Thread(target=run, name="hub-lookup", daemon=True).start()
    try:
        value, error = outcome.get(timeout=timeout_s)
    except Empty:
        raise TimeoutError(f"no answer within {timeout_s:g} s") from None
    if error is not None:
        raise error
    return value  # type: ignore[return-value]


def _reporting_bar(spec: str, report: Progress) -> type[Any]:
    """A progress bar that reports bytes as lines instead of drawing."""

    class ReportingBar(tqdm):  # type: ignore[misc]
        monitor_interval = 0
        """No thread that redraws."""
        _reported_at = 0.0
        _reported = ""

        def display(self, msg: str | None = None, pos: int | None = None) -> None:
            if self.unit != "B" or not self.total:
                return
            now, line = time.monotonic(), f"{self.n / 1e6:,.0f} of {self.total / 1e6:,.0f} MB"
            due = self.n >= self.total or now - self._reported_at >= REPORT_INTERVAL_S
            if due and line != self._reported:
                self._reported_at, self._reported = now, line
                report(f"{spec}: {line}")

        def clear(self, nolock: bool = False) -> None:
            """There is nothing drawn."""

        def close(self) -> None:
            self.disable = True

    return ReportingBar


def _literal(name: str) -> str:
    """A pattern that matches this name only."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
