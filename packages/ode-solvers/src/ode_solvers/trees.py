"""Rooted trees and the order conditions that they stand for.

A tree is the sorted tuple of the trees that hang from its root; the leaf is the empty tuple.
Source: Butcher, Numerical Methods for Ordinary Differential Equations, sections 310 to 315.
"""

from __future__ import annotations

from functools import cache
from math import prod

import numpy as np
from numpy.typing import NDArray

Tree = tuple["Tree", ...]
Vector = NDArray[np.float64]


@cache
def trees(order: int) -> tuple[Tree, ...]:
    """Return all rooted trees with `order` vertices: 1, 1, 2, 4, 9, 20, 48, 115 for 1 to 8."""
    if order == 1:
        return ((),)
    return tuple(sorted(_forests(order - 1, order - 1)))


@cache
def _forests(size: int, largest: int) -> frozenset[Tree]:
    # Sets of trees with `size` vertices in all and none above `largest`: one tree, then the rest.
    if size == 0:
        return frozenset({()})
    found: set[Tree] = set()
    for first in range(1, min(size, largest) + 1):
        for tree in trees(first):
            for rest in _forests(size - first, first):
                found.add(tuple(sorted((tree, *rest))))
    return frozenset(found)


def vertices(tree: Tree) -> int:
    """Return the number of vertices of a tree."""
    return 1 + sum(vertices(child) for child in tree)


def density(tree: Tree) -> int:
    """Return the density gamma of a tree: the order condition reads b . phi = 1 / gamma."""
    return vertices(tree) * prod(density(child) for child in tree)


class Weights:
    """The vectors phi of a Runge-Kutta matrix, each computed once."""

    def __init__(self, a: NDArray[np.float64]) -> None:
        self._a = a
        self._known: dict[Tree, Vector] = {(): np.ones(len(a))}

    def __call__(self, tree: Tree) -> Vector:
        """Return phi of a tree, `[stages]`: the product over its children of A phi(child)."""
        if tree not in self._known:
            value = np.ones(len(self._a))
            for child in tree:
                value = value * (self._a @ self(child))
            self._known[tree] = value
        return self._known[tree]
