"""What stiff problems cost and how near the implicit methods come to the reference values.

Errors are in units of the tolerance: the largest |y - reference| / (atol + rtol |reference|), with
rtol the tolerance and atol as small as the smallest component needs.

    python examples/stiff_figures.py --tolerances 1e-3 1e-6 1e-9
"""

from __future__ import annotations

import argparse

import torch

from ode_core import solve

SPECIES = torch.zeros(8, 8, dtype=torch.float64)
for row, column, rate in (
    *((0, 0, -1.71), (0, 1, 0.43), (0, 2, 8.32), (1, 0, 1.71), (1, 1, -8.75), (2, 2, -10.03)),
    *((2, 3, 0.43), (2, 4, 0.035), (3, 1, 8.32), (3, 2, 1.71), (3, 3, -1.12), (4, 4, -1.745)),
    *((4, 5, 0.43), (4, 6, 0.43), (5, 3, 0.69), (5, 4, 1.71), (5, 5, -0.43), (5, 6, 0.69)),
    *((6, 6, -1.81), (7, 6, 1.81)),
):
    SPECIES[row, column] = rate
FEED = torch.tensor([0.0007, 0, 0, 0, 0, 0, 0, 0], dtype=torch.float64)
REACTION = torch.tensor([0, 0, 0, 0, 0, -280.0, 280.0, -280.0], dtype=torch.float64)


def hires(t, y):
    return y @ SPECIES.T + FEED + y[5] * y[7] * REACTION


def robertson(t, y):
    first, last = -0.04 * y[0] + 1e4 * y[1] * y[2], 3e7 * y[1] * y[1]
    return torch.stack([first, -first - last, last])


def van_der_pol(t, y):
    return torch.stack([y[1], ((1 - y[0] * y[0]) * y[1] - y[0]) / 1e-6])


# f, start, end, the reference there (IVP test set; components of HIRES shortened), atol / rtol.
PROBLEMS = {
    "HIRES, 321.8": (hires, (1, 0, 0, 0, 0, 0, 0, 0.0057), 321.8122, 1e-4, (
        7.37131257332567e-4, 1.44248572631616e-4, 5.88872974096758e-5, 1.17565134328315e-3,
        2.38635619883133e-3, 6.23896825274280e-3, 2.84999839518577e-3, 2.85000160481423e-3)),
    "Robertson, 40": (robertson, (1, 0, 0), 40.0, 1e-6, (
        0.715827068719405, 9.18553476455776e-6, 0.284163745745830)),
    "Robertson, 100": (robertson, (1, 0, 0), 100.0, 1e-6, (
        0.617234882396088, 6.15359127463912e-6, 0.382758964012638)),
    "Robertson, 1e11": (robertson, (1, 0, 0), 1e11, 1e-10, (
        2.083340149701255e-8, 8.333360770334713e-14, 0.9999999791665050)),
    "Van der Pol, 1e-6": (van_der_pol, (2, 0), 2.0, 1.0, (1.706167732170483, -0.8928097010247975)),
}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tolerances", type=float, nargs="+", default=[1e-3])
    parser.add_argument("--solvers", nargs="+", default=["kvaerno5", "radau5"])
    options = parser.parse_args()
    print("| problem | tolerance | solver | error | f | accepted | rejected |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, (f, y0, t1, small, end) in PROBLEMS.items():
        for tolerance in options.tolerances:
            for solver in options.solvers:
                reference = torch.tensor(end, dtype=torch.float64)
                s = solve(f, torch.tensor(y0, dtype=torch.float64), [0.0, t1], solver=solver,
                          rtol=tolerance, atol=small * tolerance)  # fmt: skip
                allowed = tolerance * (small + reference.abs())
                error = ((s.ys[-1] - reference).abs() / allowed).max().item()
                print(f"| {name} | {tolerance:.0e} | `{solver}` | {error:.2g} | {s.stats.f_calls} "
                      f"| {s.stats.accepted} | {s.stats.rejected} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
