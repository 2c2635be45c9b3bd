"""Files that are written in one go or not at all, and a sentence where a folder takes none."""

from __future__ import annotations

import errno
import os
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ode_core.errors import OdeError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FULL = {errno.ENOSPC, errno.EFBIG, errno.EROFS, getattr(errno, "EDQUOT", errno.ENOSPC)}
_DENIED = {errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR}


class OutputError(OdeError):
    """A folder that cannot be written to: full, read-only, or not to be made."""


def unwritable(folder: Path, error: OSError) -> OutputError:
    """Return the sentence on a folder that took nothing."""
    return OutputError(
        f"nothing can be written to {folder} ({error.strerror}); make room or choose another "
        "--out; what was written before is whole, and --resume goes on from a checkpoint there"
    )


@contextmanager
def room(folder: Path) -> Iterator[None]:
    """Raise OutputError where the body meets a full or a read-only disk."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise unwritable(folder, error) from error


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        if error.errno not in _FULL | _DENIED:
            raise
        raise unwritable(folder, error) from error


def replace(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a power cut, finds the old content or the new one.

    Raises OutputError where the folder takes nothing.
    """
    with _writing(path.parent):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)  # mkstemp makes files that others cannot read
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise


def require_writable(folder: Path) -> None:
    """Make the folder and raise OutputError where it takes no file."""
    with _writing(folder), tempfile.TemporaryFile(dir=folder):
        pass
