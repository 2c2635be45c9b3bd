"""Finding the tensors whose gradients pass through f, without asking the user to list them."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ode_core.knots import found_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ode_core.field import Field


class Capture(TorchFunctionMode):
    """Notes every tensor that requires a gradient and goes into a torch function.

    Used around calls of f with gradients off and a state that requires none, so that whatever
    requires one came from outside: parameters, arguments, tensors that f closes over. What f makes
    itself, under enable_grad, is not kept alive, and is gone when the tensors are asked for.
    """

    def __init__(self) -> None:
        super().__init__()
        self._found: dict[int, weakref.ref[Tensor]] = {}
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
        self._look(args)
        if kwargs:
            self._look(kwargs.values())
            return func(*args, **kwargs)
        return func(*args)

    def _look(self, values: Iterable[Any]) -> None:
        for value in values:
            if isinstance(value, Tensor):
                if value.requires_grad:
                    self._note(value)
            elif isinstance(value, list | tuple):
                self._look(value)

    def _note(self, tensor: Tensor) -> None:
        if tensor not in self and self._older(tensor):
            self._found[id(tensor)] = weakref.ref(tensor)

    def __contains__(self, tensor: Tensor) -> bool:
        """Return whether a tensor was noted."""
        known = self._found.get(id(tensor))
        return known is not None and known() is tensor

    def _older(self, tensor: Tensor) -> bool:
        node = tensor.grad_fn
        return node is None or node._sequence_nr() < self._start

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Note tensors known to take part."""
        for tensor in tensors:
            if tensor.requires_grad:
                self._note(tensor)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors found, in the order in which they took part."""
        alive = (known() for known in self._found.values())
        return tuple(tensor for tensor in alive if tensor is not None)


class Watched:
    """A field for a solve without gradients that learns which tensors would get them.

    A tensor may take part only later, so that every call is watched until all have been seen that
    `found_in` finds. After that every eighth is, for the sake of one that is hidden deeper; one
    that even so is missed is an error in the backward pass, which looks through every graph.
    """

    def __init__(self, field: Field) -> None:
        self._field = field
        self._capture = Capture()
        owner = getattr(field.f, "__self__", field.f)
        self._module = owner if isinstance(owner, nn.Module) else None
        within = found_in(Tensor, field.f, field.args)
        self._unseen = [x for x in within if x.requires_grad]
        self._calls = 0

    def __call__(self, t: Any, y: Tensor) -> Tensor:
        """Return what the field returns."""
        self._calls += 1
        if not self._unseen and self._calls % 8 != 1:
            return self._field(t, y)
        out = self._field(t, y, self._capture)
        if out.requires_grad:
            # What f hands on as it is has gone through no torch function.
            self._capture.add((out,))
        while self._unseen and self._unseen[-1] in self._capture:
            self._unseen.pop()
        return out

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor found so far, a module's parameters among them."""
        if self._module is not None:
            self._capture.add(self._module.parameters())
        return self._capture.tensors
