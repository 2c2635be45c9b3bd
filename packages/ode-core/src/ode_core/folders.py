"""Whether files can be made where they are to lie."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ode_core.discovery import describe


def writable(folder: Path) -> str:
    """Return a folder with a word on whether files can be made in it; it is made if need be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".ode-doctor-"):
            return f"{folder}, writable"
    except OSError as error:
        return f"{folder}, NOT writable ({describe(error)})"
