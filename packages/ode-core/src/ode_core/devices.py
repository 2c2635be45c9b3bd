"""What torch finds on this machine."""

from __future__ import annotations

import os

import torch


def devices() -> dict[str, str]:
    """Return the devices that torch can use, each with its memory and its number of threads."""
    build = torch.version.cuda or torch.version.hip or "no GPU"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    rows = {
        "torch build": f"{torch.__version__}, for {build}",
        "cpu": f"{cores} cores, {torch.get_num_threads()} threads for torch, "
        f"{torch.backends.cpu.get_cpu_capability()}",
    }
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        rows[f"cuda:{index}"] = (
            f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, "
            f"compute capability {properties.major}.{properties.minor}"
        )
    if not torch.cuda.is_available():
        rows["cuda"] = "none"
    if torch.backends.mps.is_available():
        rows["mps"] = "available"
    return rows
