"""Where a run happens: the device, the precision, the processes, and the seeds of each."""

from __future__ import annotations

import logging
import os
import random
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from ode_core.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterator


def rank() -> int:
    """Return which process of the run this is; 0 prints and writes, the others do neither."""
    return int(os.environ.get("RANK", "0"))


def restarted() -> bool:
    """Return whether torchrun has started this process again after the loss of one."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def make_fabric(device: str, precision: str) -> Fabric:
    """Return a Fabric on one device, "cpu", "cuda" or "cuda:1", or on one for each process.

    Under torchrun every process takes its own GPU of "cuda" and they train one model together.
    Raises ArgumentError for a device that is none or is not here.
    """
    wanted = _device(device)
    many: dict[str, Any] = {}
    # Named, not looked for: within a job of SLURM a run of one process is a run of one process.
    environment = (
        TorchElasticEnvironment if dist.is_torchelastic_launched() else LightningEnvironment
    )
    if dist.is_torchelastic_launched():
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // local
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
        # Of a filter with one channel, whose strides may be read in two ways.
        warnings.filterwarnings("ignore", "Grad strides do not match")
        many = {"devices": local, "num_nodes": nodes, "strategy": "ddp"}
        if wanted.index is not None:
            raise ArgumentError(
                f"the device {device!r} is one, and torchrun gives every process its own; say cuda"
            )
    needed = (wanted.index or 0) + many.get("devices", 1)
    if wanted.type == "cuda" and needed > torch.cuda.device_count():
        raise ArgumentError(
            f"the device {device!r} is not here ({torch.cuda.device_count()} CUDA devices found, "
            f"{needed} needed); use --device cpu"
        )
    one = {"devices": 1 if wanted.index is None else [wanted.index]}
    parts: dict[str, Any] = {"precision": precision, **(many or one)}
    try:
        fabric = Fabric(accelerator=wanted.type, plugins=[environment()], **parts)
    except ValueError as error:
        raise ArgumentError(
            f"the device {device!r} with precision {precision!r}: {error}"
        ) from None
    if many:
        _meet("nccl" if wanted.type == "cuda" else "gloo")
    fabric.launch()
    return fabric


def _meet(backend: str) -> None:
    """Join the other processes of this attempt.

    After a restart torchrun's store still has the addresses that the lost processes left (torch
    2.13), and who reads those waits for nobody: every attempt has keys of its own.
    """
    if dist.is_initialized():
        return
    store, own, count = next(iter(rendezvous("env://")))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = PrefixStore(f"attempt {attempt}", store)
    dist.init_process_group(backend, store=store, rank=own, world_size=count)


def _device(name: str) -> torch.device:
    unknown = f"{name!r} is no device to train on; say cpu, cuda or cuda:1"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ArgumentError(unknown) from None
    if device.type not in ("cpu", "cuda"):
        raise ArgumentError(unknown)
    return device


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch, numpy and Python for the body, and put their states back after it."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices):
        seed_all(seed)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


def seed_all(seed: int) -> None:
    """Seed torch on every device, numpy and Python."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the states of Python's, numpy's and torch's generators as tensors and numbers."""
    numpy_state: Any = np.random.get_state()
    name, keys, *numbers = numpy_state
    states = {
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), *numbers],
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_random_state(states: dict[str, Any], device: torch.device) -> None:
    """Put back what `random_state` returned."""
    random.setstate(states["python"])
    name, keys, *numbers = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *numbers))
    torch.set_rng_state(states["torch"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def lost_another(error: RuntimeError) -> bool:
    """Return whether the error is that of a process which waits for one that is gone."""
    return isinstance(error, dist.DistError) or "/gloo/" in str(error)


def gathered(value: Any) -> list[Any]:
    """Return the value of every process, in the order of their ranks, in each of them."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
