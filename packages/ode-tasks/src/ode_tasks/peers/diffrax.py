"""diffrax: JAX, compiled; its gradients by checkpoints of its loop."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ode_core.errors import UnsupportedError
from ode_tasks.peers.contest import BACKWARD, Outcome, Prepared, Variant, missing, refuse
from ode_tasks.peers.fields import Convolution

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ode_tasks.peers.works import Posed, Work


class Jax:
    """The operations that fields need, in JAX."""

    def __init__(self, jax: Any) -> None:
        self._jax = jax

    def tanh(self, x: Any) -> Any:
        """Return the hyperbolic tangent of every entry."""
        return self._jax.numpy.tanh(x)

    def concatenate(self, parts: Sequence[Any], axis: int) -> Any:
        """Return the parts joined along an axis."""
        return self._jax.numpy.concatenate(parts, axis)

    def convolution(self, x: Any, weight: Any) -> Any:
        """Return a 3x3 convolution with zeros around."""
        return self._jax.lax.conv(x, weight, (1, 1), "SAME")


class Diffrax:
    """diffrax: one compiled program a solve, an integral controller.

    A work whose samples want steps of their own is mapped over them.
    """

    name = "diffrax"
    estimate = 2.0 / 3.0

    @property
    def missing(self) -> str:
        """The pip requirement, "" where it is installed."""
        return missing("diffrax", "diffrax") or missing("jax", "jax")

    def variants(self, work: Work, direction: str) -> Sequence[Variant]:
        """Return Dopri5, or its default way to differentiate."""
        if work.solver != "dopri5":
            raise refuse(self.name, work.solver)
        return (Variant("RecursiveCheckpointAdjoint" if direction == BACKWARD else "jit"),)

    def prepare(self, posed: Posed, variant: Variant, direction: str, threads: int) -> Prepared:
        """Return the compiled solve; raises UnsupportedError where JAX has no such device."""
        del variant
        slow = isinstance(posed.field, Convolution) and posed.y0.device.type == "cpu"
        if slow and direction == BACKWARD:
            raise UnsupportedError(
                "a convolution in a loop takes XLA half a second a call on a CPU, and the gradient "
                "did not end within ten minutes"
            )
        jax = _jax(threads)
        device = _device(jax, posed.y0.device.type)
        put = _putting(jax, device)
        y0, weights = put(posed.y0), [put(p) for p in posed.field.parameters()]
        rows = [put(row) for row in posed.field.rows]
        solve = _solve(jax, posed, put(posed.t), self.estimate)
        if direction != BACKWARD:
            program = jax.jit(solve)
        else:

            def loss(y0: Any, weights: Any, rows: Any) -> Any:
                ys, steps = solve(y0, weights, rows)
                return 0.5 * (ys[-1] ** 2).sum(), (ys, steps)

            program = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))

        last: list[Any] = []

        def run() -> None:
            last[:] = [jax.block_until_ready(program(y0, weights, rows))]

        def outcome() -> Outcome:
            if not last:
                run()
            if direction != BACKWARD:
                (ys, steps), gradient = last[0], None
            else:
                (_, (ys, steps)), (start, others) = last[0]
                parts = [torch.from_numpy(np.array(part)) for part in (start, *others)]
                gradient = torch.cat([part.flatten() for part in parts])
            states = torch.from_numpy(np.array(ys))
            # The first step's size takes two calls of f, and its first slope one more.
            taken = int(np.max(steps))
            return Outcome(states, gradient, 6 * taken + 3, None, taken)

        return Prepared(run, outcome, compiles=True)


def _solve(jax: Any, posed: Posed, times: Any, estimate: float) -> Callable[..., Any]:
    """Return `(y0, weights, rows) -> (ys, steps)`, states in the order of time."""
    diffrax: Any = importlib.import_module("diffrax")
    work = posed.work
    f = posed.field.written_in(Jax(jax))
    controller = diffrax.PIDController(rtol=work.rtol * estimate, atol=work.atol * estimate)

    def solve(y0: Any, weights: Any, rows: Any) -> Any:
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(f),
            diffrax.Dopri5(),
            times[0],
            times[-1],
            None,
            y0,
            [*weights, *rows],
            saveat=diffrax.SaveAt(ts=times),
            stepsize_controller=controller,
        )
        return solution.ys, solution.stats["num_steps"]

    if not work.per_sample:
        return solve

    def one(y0: Any, weights: Any, rows: Any) -> Any:
        ys, steps = solve(y0[None], weights, [row[None] for row in rows])
        return ys[:, 0], steps

    mapped: Callable[..., Any] = jax.vmap(one, in_axes=(0, None, 0), out_axes=(1, 0))
    return mapped


def _jax(threads: int) -> Any:
    """Import JAX with as many threads as everyone gets: it reads these once, when it starts."""
    flags = os.environ.get("XLA_FLAGS", "")
    if threads == 1 and "multi_thread_eigen" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
    os.environ.setdefault("NPROC", str(threads))
    return importlib.import_module("jax")


def _device(jax: Any, kind: str) -> Any:
    try:
        return jax.devices("gpu" if kind == "cuda" else kind)[0]
    except RuntimeError:
        raise UnsupportedError(f"the installed JAX has no {kind} device") from None


def _putting(jax: Any, device: Any) -> Callable[[torch.Tensor], Any]:
    return lambda tensor: jax.device_put(tensor.detach().cpu().numpy(), device)
