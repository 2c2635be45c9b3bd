"""The tensors of a solver's carry that can have gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree


def leaves_of(tree: Any) -> list[Tensor]:
    """Return the tensors of a carry that can have gradients."""
    return [x for x in pytree.tree_leaves(tree) if _real(x)]


def with_leaves(tree: Any, leaves: Sequence[Tensor]) -> Any:
    """Return a carry with other such tensors in its place."""
    given = iter(leaves)
    return pytree.tree_map(lambda x: next(given) if _real(x) else x, tree)


def _real(x: Any) -> bool:
    return isinstance(x, Tensor) and (x.is_floating_point() or x.is_complex())
