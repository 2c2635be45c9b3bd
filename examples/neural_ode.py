"""A neural ODE in 40 lines: learn the field behind stretches of a spiral, and forecast with it.

python examples/neural_ode.py --epochs 300
"""

import argparse

import torch
from torch import nn

from ode_models import ODEBlock
from ode_solvers import solve

TIMES = torch.linspace(0.0, 0.3, 7)


class Field(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(2, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2)
        )

    def forward(self, t, y):
        return self.net(y)


def spiral(t, y):
    return y**3 @ torch.tensor([[-0.1, 2.0], [-2.0, -0.1]])


def main(epochs):
    torch.manual_seed(0)
    starts = 4 * torch.rand(64, 2) - 2
    seen = solve(spiral, starts, TIMES).ys
    model = ODEBlock(Field(), TIMES.tolist(), solver="tsit5", gradient="checkpoint", rtol=1e-3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for epoch in range(epochs):
        loss = (model(starts) - seen).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if epoch % 50 == 0 or epoch == epochs - 1:
            print(f"epoch {epoch:3}: loss {loss.item():.5f}, {model.stats.f_calls} calls of f")
    start, ahead = torch.tensor([[1.5, -0.5]]), torch.linspace(0.0, 3.0, 31)
    with torch.no_grad():
        gap = solve(model.field, start, ahead).ys - solve(spiral, start, ahead).ys
    print(f"root mean square error over ten times the span: {gap.square().mean().sqrt():.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=100)
    main(parser.parse_args().epochs)
