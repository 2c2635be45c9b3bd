"""Prints what a step of the peers costs beside f, in Markdown, for docs/performance.md.

python -m tests.budgets.peers

It needs the peers that it is to show: `nox -s peers` installs them.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from ode_core.testing.counting import Counter
from ode_tasks.peers.contest import FORWARD
from ode_tasks.peers.suite import Suite
from ode_tasks.peers.torchdiffeq import Torchdiffeq
from ode_tasks.peers.torchode import Torchode
from ode_tasks.peers.works import WORKS

# Two spans of a field that takes steps of one size and few of them twice; big enough a state
# that what there is once a sample or a solve does not show.
TURNS = replace(WORKS["steps_25"], solver="dopri5", dt=None, shape=(256, 64))
SPANS = 20.0, 40.0
FIXED = replace(TURNS, solver="rk4_38", dt=0.1)


def counts(peer, variant, work):
    """Counts of one solve, and its steps."""
    counter = Counter()
    posed = work.posed("cpu")
    posed.field.forward = counter.outside(posed.field.forward)
    prepared = peer.prepare(posed, variant, FORWARD, 1)
    with torch.no_grad(), counter.running():
        prepared.run()
    return counter.counts, prepared.outcome().steps


def step(peer, variant, work):
    """Counts of one step: the difference of two spans over that of their steps."""
    (a, short), (b, long) = (
        counts(peer, variant, replace(work, times=(0.0, span))) for span in SPANS
    )
    return (b - a) / (long - short)


def main():
    print("| step of | operations | words read + written | allocations | synchronisations |")
    print("| --- | --- | --- | --- | --- |")
    rows = [(TURNS, "dopri5", peer) for peer in (Torchdiffeq(), Torchode(), Suite())]
    rows += [(FIXED, "rk4_38", peer) for peer in (Torchdiffeq(), Suite())]
    size = 4.0 * TURNS.shape[0] * TURNS.shape[1]
    for work, name, peer in rows:
        works = [work] if peer.name != "suite" else [work, replace(work, per_sample=True)]
        if peer.missing:
            print(f"| {peer.name} {name} | not installed |  |  |  |")
            continue
        for each in works:
            variant = peer.variants(each, FORWARD)[0]
            found = step(peer, variant, each)
            words = f"{found.read / size:.1f} + {found.written / size:.1f}"
            print(
                f"| {peer.name} {name}, {variant.name} | {found.operations:.0f} | {words} "
                f"| {found.allocations:.0f} | {found.synchronisations:.1f} |"
            )


if __name__ == "__main__":
    main()
