"""What torch says of dtypes, in a form that torch.compile can trace."""

from __future__ import annotations

import torch

_PARTS = {
    torch.complex32: torch.float16,
    torch.complex64: torch.float32,
    torch.complex128: torch.float64,
}


def real(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of the parts of a complex one, and a real one as it is."""
    return _PARTS.get(dtype, dtype)
