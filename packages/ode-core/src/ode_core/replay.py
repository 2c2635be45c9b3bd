"""Evaluating f again in a backward pass, as it was evaluated in the forward solve."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from ode_core.draws import differ, states
from ode_core.errors import OdeError, UnsupportedError
from ode_core.graph import name_of, node_of, outside
from ode_core.knots import found_in

if TYPE_CHECKING:
    from ode_core.field import Field


@dataclass(frozen=True, eq=False)
class _Module:
    """What a module was in the forward solve."""

    module: nn.Module
    training: bool
    parameters: dict[str, Tensor | None]
    buffers: dict[str, Tensor | None]


class Replay:
    """What the evaluations of f in one forward solve went by, made before that solve.

    Noted are the autocast state, and of every module that f may use its mode, parameters and
    buffers: `torch.func.functional_call` may have put others in their place for the forward solve
    alone. Random draws are the field's own: they are the same at every evaluation of one solve.
    """

    def __init__(self, field: Field, device: torch.device) -> None:
        self._field, self._device = field, device
        kind = device.type
        self._autocast = (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
        self._modules = [
            _Module(part, part.training, dict(part._parameters), dict(part._buffers))
            for module in found_in(nn.Module, field.f, field.args)
            for part in module.modules()
        ]
        given = [x for x in pytree.tree_leaves(field.args) if isinstance(x, Tensor)]
        buffers = [x for m in self._modules for x in m.buffers.values() if x is not None]
        # Those that require gradients are saved by autograd, which compares them itself.
        self._versions = [
            (x, x._version, what)
            for what, found in (("an entry of args", given), ("a buffer of f", buffers))
            for x in found
            if not (x.requires_grad or x.is_inference())
        ]

    def settle(self) -> None:
        """Note that the forward solve is over: what f itself has written may change later, too."""
        self._versions = [kept for kept in self._versions if kept[0]._version == kept[1]]

    @contextmanager
    def again(self, tensors: tuple[Tensor, ...], *, twice: bool = False) -> Iterator[Again]:
        """Enter what there was and give the field to be evaluated, with what it depends on.

        `tensors` are those that f was seen to depend on. `twice` keeps the way from what is to be
        differentiated back to them. Whatever f writes into modules' buffers meanwhile is dropped,
        and random generators are left as they were. Raises OdeError for an argument or a buffer
        that was changed in place since, and UnsupportedError where f draws random numbers only now.
        """
        for x, version, what in self._versions:
            if x._version != version:
                raise OdeError(
                    f"{what}, of shape {tuple(x.shape)}, was changed in place between the forward "
                    "and the backward pass, which evaluates f again; clone it before the change, "
                    "or take gradient='direct'"
                )
        before = states(self._device)
        enabled, dtype = self._autocast
        twins = tuple(twin(x, twice=twice) for x in tensors)
        with _modules(self._modules), torch.autocast(self._device.type, dtype, enabled):
            yield Again(self._field, tensors, twins)
        if not self._field.draws and differ(before, states(self._device)):
            raise UnsupportedError(
                "f began to draw random numbers after its first evaluation, and those of the "
                "forward solve are not known any more; let it draw in every call, or take "
                "gradient='direct'"
            )


class Again:
    """The field of a replay.

    `tensors` are what to differentiate with respect to. They stand in for tensors with a graph of
    their own, which autograd continues outside: f is differentiated with each of them held fixed,
    and no hook of the user's sees a part of a gradient.
    """

    def __init__(
        self, field: Field, given: tuple[Tensor, ...], tensors: tuple[Tensor, ...]
    ) -> None:
        self.field, self.tensors = field, tensors
        swaps = {id(x): twin for x, twin in zip(given, tensors, strict=True) if x is not twin}
        self._given = given  # keeps the ids theirs
        self._swaps = swaps
        self._mode = _Swapped(swaps) if swaps else None
        self._known = {node_of(x) for x in tensors if x.requires_grad}

    def __call__(self, t: Any, y: Tensor) -> Tensor:
        """Return what the field returns.

        Raises UnsupportedError, which names it, for a tensor that takes part although it was not
        seen in the forward solve.
        """
        out = self.field(t, y, self._mode)
        if self._swaps:
            # What f hands on as it is has gone through no torch function.
            out = self._swaps.get(id(out), out)
        if out.requires_grad:
            strange = outside(out, (y, t), self._known)
            if strange:
                self._refuse(strange, t, y)
        return out

    def _refuse(self, strange: list[Tensor], t: Any, y: Tensor) -> None:
        # A leaf that f makes anew in each evaluation is its own affair.
        again = {id(x) for x in outside(self.field(t, y, self._mode), (y, t), self._known)}
        for x in strange:
            if id(x) in again:
                raise UnsupportedError(
                    f"{name_of(x, self.field.f)} takes part in f in the backward pass but was not "
                    "seen to in the forward solve, so that its gradient would be lost; pass it "
                    "through args, or take gradient='direct'"
                )


def recorded(function: Callable[[Tensor], Tensor], y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the function's value with a graph, and the leaf like `y` that the graph begins at."""
    with torch.enable_grad():
        leaf = y.detach().requires_grad_()
        return function(leaf), leaf


def twin(x: Tensor, *, twice: bool) -> Tensor:
    """Return what stands in for a tensor: itself if that is harmless, else one without its graph.

    With `twice` the graph back to it is kept.
    """
    if twice and x.requires_grad:
        return x.view_as(x)
    if x.grad_fn is None and x.requires_grad and not x._backward_hooks:
        return x
    return x.detach().requires_grad_()


class _Swapped(TorchFunctionMode):
    """Puts other tensors in place of some whenever these go into a torch function."""

    def __init__(self, swaps: dict[int, Tensor]) -> None:
        super().__init__()
        self._swaps = swaps

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Do what was asked for with the others."""
        del types
        swapped = [self._swap(x) for x in args]
        if kwargs:
            return func(*swapped, **{name: self._swap(x) for name, x in kwargs.items()})
        return func(*swapped)

    def _swap(self, x: Any) -> Any:
        if isinstance(x, Tensor):
            return self._swaps.get(id(x), x)
        if type(x) in (list, tuple):
            return type(x)(self._swap(part) for part in x)
        return x


@contextmanager
def _modules(noted: list[_Module]) -> Iterator[None]:
    """Put modules into the state in which they were, with copies of buffers to write into."""
    back: list[tuple[dict[str, Any], str, Any]] = []
    modes = [(m.module, m.module.training) for m in noted if m.module.training != m.training]
    try:
        for m in noted:
            m.module.training = m.training
            for name, x in m.parameters.items():
                _put(m.module._parameters, name, x, back)
            for name, x in m.buffers.items():
                # One that requires a gradient is an input of f, not a statistic that it keeps.
                written = m.training and x is not None and not x.requires_grad
                own = x.clone() if written and x is not None else x
                _put(m.module._buffers, name, own, back)
        yield
    finally:
        for store, name, x in reversed(back):
            store[name] = x
        for module, training in modes:
            module.training = training


def _put(store: Any, name: str, x: Any, back: list[tuple[dict[str, Any], str, Any]]) -> None:
    now = store.get(name)
    if now is not x:
        back.append((store, name, now))
        store[name] = x
