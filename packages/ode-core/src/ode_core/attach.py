"""The one autograd function through which gradient methods without a stored graph differentiate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ode_core.errors import UnsupportedError
from ode_core.transforms import transformed

Pull = Callable[
    [Tensor, Tensor, Tensor, "tuple[Tensor, ...]"], "tuple[Tensor, Sequence[Tensor | None]]"
]
"""`pull(grad_ys, ys, y0, tensors) -> (grad_y0, gradients of tensors)`: a method's backward pass."""

Gradients = tuple[Tensor | None, Sequence[Tensor | None]]
"""The gradients of y0 and of the other tensors."""


class Backward(Protocol):
    """A backward pass for several outputs, of which it needs the gradients alone.

    One that also has `twice`, with the same signature, offers second derivatives: what it returns
    has a graph back to everything that it was given. `held`, tensors that it keeps from the forward
    solve, are shown to autograd, so that what is held for the backward pass can be counted.
    """

    def __call__(
        self, grads: tuple[Tensor, ...], y0: Tensor, tensors: tuple[Tensor, ...]
    ) -> Gradients:
        """Return the gradients of `y0` and `tensors` from those of the outputs."""


def refuse_transforms(name: str, y0: Tensor) -> None:
    """Raise UnsupportedError, which names the method, for what only a recorded graph can do."""
    inside = transformed()
    entered = forward_ad._current_level >= 0
    if inside or (entered and forward_ad.unpack_dual(y0).tangent is not None):
        raise UnsupportedError(
            f"gradient={name!r} has no forward derivatives and does not go through the transforms "
            "of torch.func; take gradient='direct'"
        )


def attach(name: str, pull: Pull, ys: Tensor, y0: Tensor, tensors: tuple[Tensor, ...]) -> Tensor:
    """Return `ys`, `[T, ...]`, with a gradient to `y0` and `tensors` that `pull` computes.

    A second derivative raises UnsupportedError, which names the method.
    """
    if not differentiable(y0, tensors):
        return ys
    # The caller may write into what it gets, the method still needs what was there.
    (attached,) = attach_all(name, _One(pull, ys), (ys.clone(),), y0, tensors)
    return attached


def differentiable(y0: Tensor, tensors: tuple[Tensor, ...]) -> bool:
    """Return whether there is anything to attach a gradient to."""
    return torch.is_grad_enabled() and any(x.requires_grad for x in (y0, *tensors))


@dataclass(frozen=True, eq=False)
class _One:
    """The backward pass of a method that has one output and needs its values."""

    pull: Pull
    ys: Tensor

    @property
    def held(self) -> tuple[Tensor, ...]:
        """The states, which the caller may write into, and whatever else the method keeps."""
        return (self.ys, *getattr(self.pull, "held", ()))

    def __call__(
        self, grads: tuple[Tensor, ...], y0: Tensor, tensors: tuple[Tensor, ...]
    ) -> Gradients:
        return self.pull(grads[0], self.ys, y0, tensors)


def attach_all(
    name: str,
    backward: Backward,
    outputs: tuple[Tensor, ...],
    y0: Tensor,
    tensors: tuple[Tensor, ...],
) -> tuple[Tensor, ...]:
    """Return the outputs with a gradient to `y0` and `tensors` that `backward` computes.

    They are given up to the caller, who may write into them. A second derivative raises
    UnsupportedError, which names the method, unless `backward` offers one.
    """
    if not differentiable(y0, tensors):
        return outputs
    attached: tuple[Tensor, ...] = _Attached.apply(
        name, backward, len(outputs), *outputs, y0, *tensors
    )
    return attached


class _Attached(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, name: str, backward: Backward, count: int, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.name, ctx.pull, ctx.count = name, backward, count
        # Saved tensors know when they were changed in place between the two passes; what hooks on
        # them give back need not be the tensors that f knows.
        ctx.save_for_backward(*tensors[count:], *getattr(backward, "held", ()))
        ctx.inputs = tensors[count:]
        # Handed on rather than viewed: a view made in here could not be written into.
        ctx.mark_dirty(*tensors[:count])
        return tensors[:count]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        pull = ctx.pull
        if torch.is_grad_enabled():
            pull = getattr(pull, "twice", None)
            if pull is None:
                raise UnsupportedError(
                    f"gradient={ctx.name!r} offers no second derivatives (create_graph=True); "
                    "take gradient='direct'"
                )
        _ = ctx.saved_tensors
        y0, *tensors = ctx.inputs
        grad_y0, found = pull(tuple(lying_as(y0, x) for x in grads), y0, tuple(tensors))
        if grad_y0 is not None:
            grad_y0 = lying_as(y0, grad_y0[None])[0]
        return *(None,) * (3 + ctx.count), grad_y0, *found

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        del tangents
        raise UnsupportedError(
            f"gradient={ctx.name!r} has no forward derivatives; take gradient='direct'"
        )


def lying_as(y0: Tensor, grad: Tensor) -> Tensor:
    """Return gradients of states, `[T, ...]`, with channels last where the state has them so.

    Autograd makes them contiguous; every evaluation backwards would have to turn them round.
    """
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(y0.dim())
    if last is None or grad.shape[1:] != y0.shape or y0.is_contiguous():
        return grad
    if not y0.is_contiguous(memory_format=last):
        return grad
    return grad.flatten(0, 1).contiguous(memory_format=last).view(grad.shape)
