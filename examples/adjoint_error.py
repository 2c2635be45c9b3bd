"""How far the adjoint's gradient is from that of the network that is trained, by method.

One solve of an untrained convolutional field over [0, 1], as in the study's network: the gradient
of the parameters by the adjoint against the exact gradient of the same discrete solve.

    python examples/adjoint_error.py --channels 64 --seeds 5
"""

from __future__ import annotations

import argparse

import torch

from ode_core import solve
from ode_models.fields import ConvField
from ode_solvers import Adjoint

# The study's: no state but the outputs is stored.
PLAIN = Adjoint(anchors=0)
METHODS = {
    "dopri5, 1e-3": {"solver": "dopri5", "rtol": 1e-3, "atol": 1e-3},
    "dopri5, 1e-1": {"solver": "dopri5", "rtol": 1e-1, "atol": 1e-1},
    "rk4, 1 step": {"solver": "rk4", "dt": 1.0},
    "midpoint, 1 step": {"solver": "midpoint", "dt": 1.0},
    "euler, 1 step": {"solver": "euler", "dt": 1.0},
    "euler, 32 steps": {"solver": "euler", "dt": 1 / 32},
}


def gradient(field, y0, target, method, options):
    end = solve(field, y0, [0.0, 1.0], gradient=method, **options).ys[-1]
    parts = torch.autograd.grad((end * target).sum(), list(field.parameters()))
    return torch.cat([part.flatten() for part in parts])


def compare(channels, seed):
    """Return the relative error and the cosine of the adjoint's gradient for every method."""
    torch.manual_seed(seed)
    field = ConvField(channels)
    y0, target = torch.randn(2, 8, channels, 8, 8).unbind()
    found = {}
    for name, options in METHODS.items():
        exact, adjoint = (gradient(field, y0, target, m, options) for m in ("direct", PLAIN))
        error = ((adjoint - exact).norm() / exact.norm()).item()
        found[name] = error, torch.nn.functional.cosine_similarity(adjoint, exact, dim=0).item()
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    runs = [compare(options.channels, seed) for seed in range(options.seeds)]
    print(f"{'method':18} {'relative error':>16} {'cosine':>8}")
    for name in METHODS:
        errors, cosines = torch.tensor([run[name] for run in runs]).T
        spread = (
            f"{errors.min():.3g} to {errors.max():.3g}" if len(runs) > 1 else f"{errors[0]:.3g}"
        )
        print(f"{name:18} {spread:>16} {cosines.mean():8.3f}")


if __name__ == "__main__":
    main()
