"""Training through one step of Euler's method: by exact gradients, and by the adjoint's.

The tasks `digits` and `spiral`, each solve one step over its block or its stretch of samples; the
mean training loss of every epoch, by `checkpoint` (exact) and by `adjoint`.

    python examples/adjoint_training.py --epochs 15 --seeds 3 --plot adjoint_training.png
"""

from __future__ import annotations

import argparse
import warnings

import torch
from matplotlib.figure import Figure

from ode_core import tasks
from ode_core.protocols import RunConfig

# The spiral's networks are trained on stretches of six samples, 0.3 in all.
TASKS = {"digits": ("odenet", 1.0), "spiral": ("neural_ode", 0.3)}
GRADIENTS = ("checkpoint", "adjoint")


class Quiet:
    def start(self, total, text):
        pass

    def advance(self, text=""):
        pass


def losses(task, gradient, epochs, seed):
    model, dt = TASKS[task]
    config = RunConfig(task, model, "euler", gradient, dt=dt, seed=seed,
                       settings={"epochs": str(epochs)})  # fmt: skip
    run = tasks.create(task).run(config, Quiet())
    return [row["train_loss"] for row in run["history"]]


def draw(curves, path):
    figure = Figure((9, 3.6), layout="constrained")
    for axes, task in zip(figure.subplots(1, len(TASKS)), TASKS, strict=True):
        for gradient, colour in zip(GRADIENTS, ("tab:blue", "tab:red"), strict=True):
            for index, row in enumerate(curves[task, gradient].tolist()):
                label = gradient if index == 0 else None
                axes.semilogy(range(1, len(row) + 1), row, color=colour, alpha=0.8, label=label)
        axes.set(title=f"{task}: one Euler step", xlabel="epoch", ylabel="training loss")
        axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--plot", help="file to draw the curves to")
    options = parser.parse_args()
    # That the adjoint's backward solve leaves the forward one is what is to be seen.
    warnings.simplefilter("ignore", RuntimeWarning)
    curves = {
        (task, gradient): torch.tensor(
            [losses(task, gradient, options.epochs, seed) for seed in range(options.seeds)]
        )
        for task in TASKS
        for gradient in GRADIENTS
    }
    print(f"{'task':8} {'gradient':12} {'first epoch':>12} {'last epoch':>12}")
    for (task, gradient), runs in curves.items():
        first, last = runs.mean(0)[[0, -1]].tolist()
        print(f"{task:8} {gradient:12} {first:12.4f} {last:12.4f}")
    if options.plot:
        draw(curves, options.plot)


if __name__ == "__main__":
    main()
