"""A continuous normalising flow on two moons' cheaper cousin: a ring of eight bumps."""

import math

import torch
from torch import nn
from torchdiffeq import odeint_adjoint as odeint


class Flow(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(3, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 2)
        )

    def forward(self, t, states):
        z = states[0]
        with torch.enable_grad():
            z = z.detach().requires_grad_(True) if not z.requires_grad else z
            dz = self.net(torch.cat([z, t.expand(len(z), 1)], 1))
            rows = [
                torch.autograd.grad(dz[:, i].sum(), z, create_graph=True)[0][:, i] for i in (0, 1)
            ]
        return dz, -sum(rows).view(-1, 1)


def ring(count):
    angle = 2 * math.pi * torch.randint(0, 8, (count,)) / 8
    return torch.stack([angle.cos(), angle.sin()], 1) * 2 + 0.1 * torch.randn(count, 2)


def main(steps=25, count=64):
    torch.manual_seed(0)
    flow = Flow()
    optimizer = torch.optim.Adam(flow.parameters(), lr=2e-2)
    normal = torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2))
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        x = ring(count)
        z, log_p = odeint(
            flow, (x, torch.zeros(count, 1)), torch.tensor([1.0, 0.0]),
            atol=1e-4, rtol=1e-4, method="dopri5", adjoint_options={"norm": "seminorm"},
        )  # fmt: skip
        loss = -(normal.log_prob(z[-1]) - log_p[-1].view(-1)).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        start = normal.sample((8,))
        there = odeint(flow, (start, torch.zeros(8, 1)), torch.tensor([0.0, 1.0]), method="dopri5")
        back = odeint(flow, tuple(x[-1] for x in there), torch.tensor([1.0, 0.0]), method="dopri5")
    return {
        "first": losses[0],
        "last": losses[-1],
        "round_trip": (back[0][-1] - start).abs().max().item(),
    }


if __name__ == "__main__":
    print(main())
