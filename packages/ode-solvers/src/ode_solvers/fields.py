"""Vector fields that a GPU can solve whole, in one launch; ordinary modules everywhere else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ode_core import ArgumentError
from ode_solvers.expression import traced
from ode_solvers.whole.contract import ExpressionProgram, MLPProgram

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": functional.softplus,
    "relu": torch.relu,
    "silu": functional.silu,
}


class MLPField(nn.Module):
    """dy/dt by a perceptron on `[..., dim]`, with hidden layers of the widths `hidden`.

    With `time` the time is one more input, the last. `activation` is one of "tanh", "sigmoid",
    "softplus", "relu", "silu". With per-sample steps on CUDA an explicit Runge-Kutta method solves
    it in one launch, for states and layers up to 128 wide.

    Raises ArgumentError for a width below 1 or another activation.
    """

    def __init__(
        self,
        dim: int,
        hidden: int | Sequence[int] = 64,
        activation: str = "tanh",
        *,
        time: bool = False,
    ) -> None:
        super().__init__()
        widths = (hidden,) if isinstance(hidden, int) else tuple(hidden)
        if min(dim, *widths, dim) < 1:
            raise ArgumentError(f"widths are whole numbers from 1; got {dim} and {hidden}")
        if activation not in ACTIVATIONS:
            raise ArgumentError(
                f"activation is one of {', '.join(ACTIVATIONS)}; got {activation!r}"
            )
        self.activation, self.time = activation, time
        sizes = (dim, *widths, dim)
        self.layers = nn.ModuleList(
            nn.Linear(a + (time and not i), b) for i, (a, b) in enumerate(pairwise(sizes))
        )

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Return dy/dt, `[..., dim]`, at the time `t`, 0-d or `[B]` for a state `[B, dim]`."""
        if self.time:
            column = t.view(-1, *(1,) * (y.dim() - 1)) if t.dim() else t
            y = torch.cat((y, column.to(y.dtype).expand(*y.shape[:-1], 1)), -1)
        activation = ACTIVATIONS[self.activation]
        *inner, last = self.layers
        for layer in inner:
            y = activation(layer(y))
        out: Tensor = last(y)
        return out

    def extra_repr(self) -> str:
        """Return what the layers do not show."""
        return f"activation={self.activation!r}, time={self.time}"

    def program(self, shape: torch.Size) -> MLPProgram:
        """Return the field as a program for states of this shape.

        Raises ArgumentError where there is none.
        """
        refuse_other(self, MLPField)
        layers: list[Any] = list(self.layers)
        sizes = (layers[-1].out_features, *(layer.out_features for layer in layers))
        if len(shape) != 2:
            raise ArgumentError(f"an MLPField is solved whole on [B, dim]; got {tuple(shape)}")
        if any(layer.bias is None for layer in layers):
            raise ArgumentError("a layer has no bias")
        tensors = [x for layer in layers for x in (layer.weight, layer.bias)]
        return MLPProgram(sizes, self.activation, self.time, tuple(tensors))


class ElementwiseField(nn.Module):
    """dy/dt by an expression: a Python function of tensors, of which a GPU makes a program.

    `function(t, y, **parameters)` is written with operators, comparisons, `torch.where` and torch's
    elementary functions. Without `size` it acts on every entry of y, `[B, ...]`, by itself; with
    `size` y is a tuple of so many components, `[...]` each, of a state `[..., size]`, and so is
    what it returns.

    A parameter is a number or a tensor that broadcasts to what the function is given: 0-d for all,
    `[B]` (`[B, 1]` without `size`) for one a sample, `[dim]` without `size` for one an entry. An
    `nn.Parameter` is trained, anything else is a buffer. With per-sample steps on CUDA an explicit
    Runge-Kutta method solves it in one launch, for up to 16 components or 128 entries.

    Raises ArgumentError for what is no function, a size below 1, or a parameter that is no number.
    """

    def __init__(
        self, function: Callable[..., Any], size: int | None = None, **parameters: Any
    ) -> None:
        super().__init__()
        if not callable(function):
            raise ArgumentError(f"function is a callable f(t, y, **parameters); got {function!r}")
        if size is not None and size < 1:
            raise ArgumentError(f"size is a whole number from 1, or None; got {size}")
        self.function, self.size, self.names = function, size, tuple(parameters)
        for name, value in parameters.items():
            if isinstance(value, nn.Parameter):
                self.register_parameter(name, value)
                continue
            try:
                # A number is as exact as it was written; beside a state it takes its dtype.
                number = not isinstance(value, Tensor)
                tensor = torch.as_tensor(value, dtype=torch.float64 if number else None)
            except (TypeError, ValueError, RuntimeError):
                raise ArgumentError(f"{name} is a number or a tensor; got {value!r:.60}") from None
            if not tensor.is_floating_point():
                tensor = tensor.to(torch.get_default_dtype())
            self.register_buffer(name, tensor)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Return dy/dt, like y, at the time `t`, 0-d or `[B]`."""
        parameters = {name: getattr(self, name) for name in self.names}
        if self.size is None:
            time = t.view(-1, *(1,) * (y.dim() - 1)) if t.dim() else t
            return torch.as_tensor(self.function(time, y, **parameters), dtype=y.dtype).expand_as(y)
        found = self.function(t, y.unbind(-1), **parameters)
        like = y[..., 0]
        parts = [torch.as_tensor(x, dtype=y.dtype, device=y.device).expand_as(like) for x in found]
        return torch.stack(parts, -1)

    def extra_repr(self) -> str:
        """Return the function's name and the size."""
        return f"{getattr(self.function, '__name__', self.function)}, size={self.size}"

    def program(self, shape: torch.Size) -> ExpressionProgram:
        """Return the field as a program for states of this shape.

        Raises ArgumentError where there is none.
        """
        refuse_other(self, ElementwiseField)
        if len(shape) != 2:
            raise ArgumentError(
                f"an ElementwiseField is solved whole on [B, size]; got {tuple(shape)}"
            )
        forward, transpose = traced(self.function, self.size, self.names)
        width = shape if self.size is None else (shape[0],)
        tensors = tuple(getattr(self, name) for name in self.names)
        for name, tensor in zip(self.names, tensors, strict=True):
            if tensor.dim() > len(width) or any(
                a not in (1, b) for a, b in zip(tensor.shape[::-1], width[::-1], strict=False)
            ):
                raise ArgumentError(
                    f"{name} broadcasts to {tuple(width)}; got shape {tuple(tensor.shape)}"
                )
        return ExpressionProgram(forward, transpose, self.size, tensors)


def refuse_other(field: nn.Module, kind: type[nn.Module]) -> None:
    """Raise ArgumentError for a field that does more than its class: another forward, or hooks."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    if type(field).forward is not kind.forward:
        raise ArgumentError(f"{type(field).__name__} has a forward of its own")
    if any(getattr(part, name) for part in field.modules() for name in hooks):
        raise ArgumentError("the field has hooks, which no program runs")
