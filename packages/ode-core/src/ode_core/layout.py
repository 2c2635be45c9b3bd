"""How a state lies in one tensor: packed once, unpacked for every call of f."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ode_core.errors import ArgumentError


@dataclass(frozen=True)
class Layout:
    """How a state lies in one tensor: a single tensor as it is, a pytree flat as `[N]`."""

    spec: pytree.TreeSpec | None
    shapes: tuple[torch.Size, ...]

    @classmethod
    def of(cls, y0: Any) -> tuple[Layout, Tensor]:
        """Return the layout of a state and the state as one tensor.

        Raises ArgumentError for a state that holds no tensor, or tensors of several dtypes or
        devices.
        """
        if isinstance(y0, Tensor):
            return cls(None, (y0.shape,)), y0
        leaves, spec = pytree.tree_flatten(y0)
        if not leaves or not all(isinstance(leaf, Tensor) for leaf in leaves):
            kinds = sorted({type(leaf).__name__ for leaf in leaves}) or ["nothing"]
            raise ArgumentError(
                "y0 is a tensor, or a tuple, list or dict of tensors; it holds " + ", ".join(kinds)
            )
        kinds = sorted({f"{leaf.dtype} on {leaf.device}" for leaf in leaves})
        if len(kinds) > 1:
            raise ArgumentError(
                "the tensors of y0 share one dtype and one device; they are " + ", ".join(kinds)
            )
        layout = cls(spec, tuple(leaf.shape for leaf in leaves))
        return layout, layout.flat(leaves)

    def flat(self, leaves: Sequence[Tensor]) -> Tensor:
        """Return leaves as one `[N]` tensor; a single one as a view of itself."""
        if len(leaves) == 1:
            return leaves[0].reshape(-1)
        return torch.cat([leaf.reshape(-1) for leaf in leaves])

    def unpack(self, y: Tensor, lead: int = 0) -> Any:
        """Return the user's structure, each leaf with `lead` more dimensions in front."""
        if self.spec is None:
            return y
        parts = y.split([shape.numel() for shape in self.shapes], dim=lead)
        head = y.shape[:lead]
        leaves = [part.view(head + shape) for part, shape in zip(parts, self.shapes, strict=True)]
        return pytree.tree_unflatten(leaves, self.spec)

    def pack(self, out: Any, what: str) -> Tensor:
        """Return the structure that f, or a tolerance, gave as one tensor; raises ArgumentError."""
        if self.spec is None:
            if not isinstance(out, Tensor):
                raise ArgumentError(f"{what} is a tensor like y0; got {type(out).__name__}")
            self._same([out], what)
            return out
        leaves, spec = pytree.tree_flatten(out)
        if spec != self.spec:
            leaves = self.aligned(out, what)
        self._same(leaves, what)
        return self.flat(leaves)

    def aligned(self, value: Any, what: str) -> list[Any]:
        """Return the leaves of a structure in the order of the state's, by the keys of dicts.

        Raises ArgumentError for another structure.
        """
        assert self.spec is not None  # a single tensor has no structure
        like = pytree.tree_unflatten(list(range(len(self.shapes))), self.spec)
        found: dict[int, Any] = {}
        if not _matched(like, value, found):
            raise ArgumentError(
                f"{what} has the structure of y0, {_outline(like)}; got {_outline(value)}"
            )
        return [found[index] for index in range(len(self.shapes))]

    def _same(self, leaves: Sequence[Tensor], what: str) -> None:
        shapes = tuple(leaf.shape for leaf in leaves)
        if shapes != self.shapes:
            raise ArgumentError(
                f"{what} has the shape of y0, {_shapes(self.shapes)}; got {_shapes(shapes)}"
            )


def _matched(like: Any, value: Any, found: dict[int, Any]) -> bool:
    """Collect the leaf of `value` at each index that stands in `like`; False if they differ."""
    if isinstance(like, int):
        found[like] = value
        return pytree.tree_structure(value).is_leaf()
    if isinstance(like, dict):
        if not (isinstance(value, dict) and like.keys() == value.keys()):
            return False
        return all(_matched(part, value[key], found) for key, part in like.items())
    if not isinstance(value, list | tuple) or len(like) != len(value):
        return False
    return all(_matched(a, b, found) for a, b in zip(like, value, strict=True))


def _outline(x: Any) -> str:
    """Return a structure in short: what holds what, leaves as dots."""
    if isinstance(x, dict):
        return "{" + ", ".join(f"{key!r}: {_outline(part)}" for key, part in x.items()) + "}"
    if isinstance(x, list | tuple):
        open_, close = "[]" if isinstance(x, list) else "()"
        return open_ + ", ".join(_outline(part) for part in x) + close
    return "."


def _shapes(shapes: Sequence[torch.Size]) -> str:
    return ", ".join(str(tuple(shape)) for shape in shapes)


@dataclass(frozen=True)
class SampleLayout(Layout):
    """How a batch lies in one tensor: a single tensor as it is, a pytree as `[B, F]`.

    Samples that have finished may leave the batch, so the number of rows is the state's own.
    """

    @classmethod
    def of(cls, y0: Any) -> tuple[SampleLayout, Tensor]:
        """Return the layout of a batch and the batch as one tensor; ArgumentError as for others."""
        layout, _ = Layout.of(y0)
        rows = {shape[:1] for shape in layout.shapes}
        if len(rows) > 1 or () in rows:
            raise ArgumentError(
                "with stepping='per_sample' dim 0 of every tensor of y0 is the batch; "
                f"they have the shapes {_shapes(layout.shapes)}"
            )
        leaves = [y0] if isinstance(y0, Tensor) else pytree.tree_leaves(y0)
        own = cls(layout.spec, layout.shapes)
        return own, y0 if layout.spec is None else own.flat(leaves)

    def flat(self, leaves: Sequence[Tensor]) -> Tensor:
        """Return leaves `[B, ...]` as one `[B, F]` tensor."""
        return torch.cat([leaf.reshape(len(leaf), -1) for leaf in leaves], 1)

    def unpack(self, y: Tensor, lead: int = 0) -> Any:
        """Return the user's structure, each leaf with `lead` more dimensions in front."""
        if self.spec is None:
            return y
        head = y.shape[: lead + 1]
        parts = y.split([shape[1:].numel() for shape in self.shapes], dim=lead + 1)
        leaves = [
            part.reshape(head + shape[1:]) for part, shape in zip(parts, self.shapes, strict=True)
        ]
        return pytree.tree_unflatten(leaves, self.spec)

    def _same(self, leaves: Sequence[Tensor], what: str) -> None:
        inner = tuple(shape[1:] for shape in self.shapes)
        if (
            tuple(leaf.shape[1:] for leaf in leaves) != inner
            or len({x.shape[:1] for x in leaves}) > 1
        ):
            raise ArgumentError(
                f"{what} has the shape of y0, {_shapes(self.shapes)}; got "
                f"{_shapes([leaf.shape for leaf in leaves])}"
            )
