"""Simulate a bouncing ball from event to event and learn gravity from the times of its bounces."""

import torch
from torch import nn
from torchdiffeq import odeint, odeint_adjoint, odeint_event


class Ball(nn.Module):
    def __init__(self, gravity, adjoint):
        super().__init__()
        self.gravity = nn.Parameter(torch.as_tensor([gravity]))
        self.log_radius = nn.Parameter(torch.log(torch.as_tensor([0.1])))
        self.solver = odeint_adjoint if adjoint else odeint
        self.steps = 0

    def forward(self, t, state):
        velocity = state[1]
        return velocity, -self.gravity.expand_as(velocity), torch.zeros_like(state[2])

    def event_fn(self, t, state):
        position, _, log_radius = state
        return position - torch.exp(log_radius)

    def callback_step(self, t0, state, dt):
        self.steps += 1

    def bounces(self, count):
        t = torch.tensor([0.0])
        state = (torch.tensor([10.0]), torch.tensor([0.0]), self.log_radius)
        times, paths = [], []
        for _ in range(count):
            event_t, states = odeint_event(
                self, state, t, event_fn=self.event_fn, reverse_time=False,
                atol=1e-8, rtol=1e-8, odeint_interface=self.solver,
            )  # fmt: skip
            grid = torch.linspace(t.item(), event_t.item(), 5)[1:-1]
            paths.append(self.solver(self, state, torch.cat([t, grid]), atol=1e-8, rtol=1e-8)[0])
            position, velocity, log_radius = (x[-1] for x in states)
            # Off the ground, and back up with less than it came.
            state = (position + 1e-4, -0.9 * velocity, log_radius)
            t = event_t.reshape(1)
            times.append(event_t)
        return torch.stack(times), paths


def main(adjoint=False, rounds=20):
    torch.manual_seed(0)
    with torch.no_grad():
        wanted, paths = Ball(9.8, adjoint).bounces(3)
    model = Ball(7.0, adjoint)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.2)
    for _ in range(rounds):
        optimizer.zero_grad()
        times, _ = model.bounces(3)
        loss = (times - wanted).square().sum()
        loss.backward()
        optimizer.step()
    return {
        "times": wanted.tolist(),
        "lowest": min(path.min().item() for path in paths),
        "gravity": model.gravity.item(),
        "loss": loss.item(),
        "steps": model.steps,
    }


if __name__ == "__main__":
    print(main())
