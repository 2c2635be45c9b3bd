"""Fit a network's vector field to a spiral, from short stretches of one trajectory."""

import argparse

import torch
from torch import nn
from torchdiffeq import odeint, odeint_adjoint

parser = argparse.ArgumentParser()
parser.add_argument("--method", default="dopri5")
parser.add_argument("--adjoint", action="store_true")
parser.add_argument("--steps", type=int, default=60)


class Truth(nn.Module):
    def forward(self, t, y):
        return torch.mm(y**3, torch.tensor([[-0.1, 2.0], [-2.0, -0.1]]))


class Field(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 50), nn.Tanh(), nn.Linear(50, 2))
        for layer in self.net:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, mean=0, std=0.1)
                nn.init.zeros_(layer.bias)

    def forward(self, t, y):
        return self.net(y**3)


def main(argv=None):
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    solver = odeint_adjoint if args.adjoint else odeint
    t = torch.linspace(0.0, 10.0, 200)
    with torch.no_grad():
        truth = odeint(Truth(), torch.tensor([[2.0, 0.0]]), t, method="dopri5")
    field = Field()
    optimizer = torch.optim.RMSprop(field.parameters(), lr=1e-2)
    losses = []
    for _ in range(args.steps):
        starts = torch.randint(0, 190, (16,))
        target = torch.stack([truth[starts + i] for i in range(10)])
        optimizer.zero_grad()
        guess = solver(field, target[0], t[:10], method=args.method)
        loss = torch.mean(torch.abs(guess - target))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return {"first": sum(losses[:5]) / 5, "last": sum(losses[-5:]) / 5}


if __name__ == "__main__":
    print(main())
