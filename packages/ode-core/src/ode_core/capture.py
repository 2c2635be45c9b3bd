"""Finding the tensors whose gradients pass through f, without asking the user to list them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ode_core.field import Field


class Capture(TorchFunctionMode):
    """Notes every tensor that requires a gradient and goes into a torch function.

    Used around calls of f with gradients off and a state that requires none, so that whatever
    requires one came from outside: parameters, arguments, tensors that f closes over.
    """

    def __init__(self) -> None:
        super().__init__()
        self._found: dict[int, Tensor] = {}
        # Nodes made from now on belong to graphs that f itself makes, under enable_grad.
        probe = torch.zeros((), requires_grad=True)
        with torch.enable_grad():
            node = (probe * 1.0).grad_fn
        self._start = node._sequence_nr() if node is not None else 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Note what goes in, then do what was asked for."""
        del types
        self._note(args)
        if kwargs:
            self._note(kwargs.values())
            return func(*args, **kwargs)
        return func(*args)

    def _note(self, values: Iterable[Any]) -> None:
        for value in values:
            if isinstance(value, Tensor):
                if value.requires_grad and id(value) not in self._found and self._older(value):
                    self._found[id(value)] = value
            elif isinstance(value, list | tuple):
                self._note(value)

    def _older(self, tensor: Tensor) -> bool:
        node = tensor.grad_fn
        return node is None or node._sequence_nr() < self._start

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Note tensors known to take part."""
        for tensor in tensors:
            if tensor.requires_grad:
                self._found.setdefault(id(tensor), tensor)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors found, in the order in which they took part."""
        return tuple(self._found.values())


class Watched:
    """A field for a solve without gradients that learns which tensors would get them.

    A module's parameters are known, so watching its first call is enough for what it closes over;
    any other f is watched at every call, because a tensor may take part only later.
    """

    def __init__(self, field: Field) -> None:
        self._field = field
        self._capture = Capture()
        owner = getattr(field.f, "__self__", field.f)
        self._module = owner if isinstance(owner, nn.Module) else None
        self._watching = True

    def __call__(self, t: float, y: Tensor) -> Tensor:
        """Return what the field returns."""
        if not self._watching:
            return self._field(t, y)
        with self._capture:
            out = self._field(t, y)
        self._watching = self._module is None
        return out

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor found so far, a module's parameters among them."""
        if self._module is not None:
            self._capture.add(self._module.parameters())
        return self._capture.tensors
