"""Files from the network: into one cache folder, checked, with their licence shown."""

from __future__ import annotations

import hashlib
import http.client
import math
import os
import tarfile
import tempfile
import urllib.request
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs
from filelock import FileLock

from ode_core.errors import DataError, DownloadWarning

if TYPE_CHECKING:
    from io import BufferedRandom, BufferedReader

    from ode_core.protocols import Progress

    BinaryFile = BufferedReader | BufferedRandom

ENV_DATA = "ODE_DATA_DIR"

_CHUNK = 1 << 20
_TIMEOUT = 30.0  # seconds without a byte


@dataclass(frozen=True)
class Remote:
    """An archive on the network: `bytes` long, with this `md5`, which unpacks to `folder`."""

    name: str
    url: str
    file: str
    folder: str
    md5: str
    bytes: int
    licence: str


def cache(name: str) -> Path:
    """Return where the data set of that name is kept.

    That is in `ODE_DATA_DIR`, or in the platform's cache where the variable is not set.
    """
    chosen = os.environ.get(ENV_DATA)
    root = Path(chosen) if chosen else platformdirs.user_cache_path("ode", appauthor=False)
    return root / name


def fetch(remote: Remote, folder: Path, progress: Progress) -> None:
    """Fetch the archive into `folder` unless it is there, check it, and unpack it there.

    Of several processes one does it and the others wait. Raises DataError where it cannot be
    fetched, is not what it should be, or cannot be unpacked; nothing half made is left.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{remote.file}.lock"):
            if (folder / remote.folder).is_dir():
                return
            if not (folder / remote.file).exists():
                _download(remote, folder, progress)
            _unpack(remote, folder)
    except (OSError, http.client.HTTPException) as error:
        raise DataError(
            f"{remote.name} could not be fetched from {remote.url} ({error}); put {remote.file} "
            f"into {folder} by hand and run again, or pass --data DIR"
        ) from error


def _download(remote: Remote, folder: Path, progress: Progress) -> None:
    warnings.warn(
        f"fetching {remote.name} ({remote.bytes / 1e6:.0f} MB) from {remote.url} into {folder}; "
        f"licence: {remote.licence}",
        DownloadWarning,
        stacklevel=2,
    )
    text = f"fetching {remote.name}, MiB"
    progress.start(math.ceil(remote.bytes / _CHUNK), text)
    part = folder / f".{remote.file}.part"
    try:
        with part.open("w+b") as file:
            with urllib.request.urlopen(remote.url, timeout=_TIMEOUT) as source:
                while chunk := source.read(_CHUNK):
                    file.write(chunk)
                    progress.advance(text)
            file.seek(0)
            _require(remote, file, remote.url)
        os.replace(part, folder / remote.file)
    finally:
        part.unlink(missing_ok=True)


def _require(remote: Remote, file: BinaryFile, where: object) -> None:
    found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != remote.md5:
        raise DataError(
            f"{where} is not {remote.name} as it is known (md5 {found}, expected {remote.md5}); "
            "it may be cut short: remove it and try again"
        )


def _unpack(remote: Remote, folder: Path) -> None:
    path = folder / remote.file
    with path.open("rb") as file:
        _require(remote, file, path)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacking.") as inside:
        try:
            with tarfile.open(path) as archive:
                archive.extractall(inside, filter="data")
        except tarfile.TarError as error:
            raise DataError(f"{path} cannot be unpacked ({error})") from None
        os.replace(Path(inside) / remote.folder, folder / remote.folder)
