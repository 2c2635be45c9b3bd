"""Timing on a GPU: medians of events on its stream."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch


def milliseconds(run: Callable[[], Any], repeats: int = 20, inner: int = 1) -> float:
    """Return the median time of a call on the device, of `inner` calls in a row, after warm-up."""
    for _ in range(3):
        run()
    taken: list[float] = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(inner):
            run()
        end.record()
        end.synchronize()
        taken.append(start.elapsed_time(end) / inner)
    return float(statistics.median(taken))


def wall_milliseconds(run: Callable[[], Any], repeats: int = 7) -> float:
    """Return the median time that a caller waits for a call and all that it started."""
    for _ in range(2):
        run()
    taken: list[float] = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        taken.append(1e3 * (time.perf_counter() - start))
    return float(statistics.median(taken))


def copy_bandwidth(device: torch.device, size: int = 1 << 30) -> float:
    """Return the bytes read and written in a second by a copy of `size` bytes, in GB/s."""
    source = torch.empty(size, dtype=torch.uint8, device=device).zero_()
    target = torch.empty_like(source)
    return 2 * size / milliseconds(lambda: target.copy_(source)) / 1e6
