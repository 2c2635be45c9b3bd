"""Which states to keep, and in what order to make the others again, to go back through a solve."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import comb
from typing import TypeVar

State = TypeVar("State")


def reach(slots: int, repeats: int) -> int:
    """Return how many steps can be gone back through with so many kept states and repetitions."""
    return comb(slots + repeats, slots) if repeats >= 0 else 0


def repeats(steps: int, slots: int) -> int:
    """Return how often, at most, a step must be repeated to go back through so many."""
    if slots == 1:
        return steps - 1
    most = 0
    while reach(slots, most) < steps:
        most += 1
    return most


def cost(steps: int, slots: int) -> int:
    """Return the least number of steps to repeat, the state before the first being kept.

    Source: Griewank and Walther, Algorithm 799: revolve, ACM TOMS 26 (2000), theorem 1.
    """
    if steps < 2:
        return 0
    most = repeats(steps, slots)
    return most * steps - (reach(slots + 1, most - 1))


def split(steps: int, slots: int) -> int:
    """Return after how many of the steps to keep the next state."""
    if slots == 1:
        return steps - 1
    most = repeats(steps, slots)
    return max(1, min(reach(slots, most - 1), steps - reach(slots - 1, most - 1)))


def thinned(kept: list[int], steps: int, slots: int) -> list[int]:
    """Return those of equally spaced kept states with which going back costs least."""

    def total(some: list[int]) -> int:
        ends = [*some[1:], steps]
        return sum(
            cost(end - start, slots - index)
            for index, (start, end) in enumerate(zip(some, ends, strict=True))
        )

    strides = [1 << k for k in range(len(kept).bit_length())]
    return min((kept[::stride] for stride in strides), key=total)


def backwards(
    kept: dict[int, State],
    steps: int,
    slots: int,
    advance: Callable[[int, int, State], State],
) -> Iterator[tuple[int, State]]:
    """Yield every step's index and state, last first, with at most `slots` states kept at a time.

    `kept` holds states at equal spaces, the first among them; it is emptied.
    `advance(start, end, state)` makes the state before step `end` from that before step `start`.
    """
    stack = thinned(sorted(kept), steps, slots)
    for index in kept.keys() - set(stack):
        del kept[index]
    while steps:
        base = stack[-1]
        if base == steps - 1:
            steps = stack.pop()
            yield base, kept.pop(base)
            continue
        free = slots - len(stack) + 1
        ahead = base + split(steps - base, free)
        state = advance(base, ahead, kept[base])
        if ahead == steps - 1:
            steps = ahead
            yield ahead, state
        else:
            kept[ahead] = state
            stack.append(ahead)
