"""Labelled images as tensors: what the image loaders return, and what training does to a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Images(NamedTuple):
    """`pixels` is `[N, C, H, W]` uint8, `labels` is `[N]` int64."""

    pixels: Tensor
    labels: Tensor


class Split(NamedTuple):
    """Images to train on, images to test on, and the names of the classes in label order."""

    train: Images
    test: Images
    classes: tuple[str, ...]


def balanced(labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return the positions, ascending, of `count` labels, the first of every class in turn.

    The same labels always give the same positions, so that every run sees the same images.
    """
    by_class = np.argsort(labels, kind="stable")
    sizes = np.bincount(labels)
    starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    rank = np.empty_like(labels)
    rank[by_class] = np.arange(len(labels)) - starts
    return np.sort(np.argsort(rank, kind="stable")[:count])


@dataclass(frozen=True)
class Normalise:
    """Turns uint8 images into floats with mean 0 and standard deviation 1 in each channel."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, images: Images) -> Normalise:
        """Return the normalisation of these images, `[C, 1, 1]` float32 each."""
        channels = images.pixels.transpose(0, 1).flatten(1).double()
        std = channels.std(dim=1, correction=0).clamp_min(1e-6)
        return cls(channels.mean(dim=1).float()[:, None, None], std.float()[:, None, None])

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return `[B, C, H, W]` float32 of `[B, C, H, W]` uint8."""
        return (pixels.float() - self.mean.to(pixels.device)) / self.std.to(pixels.device)


def crop(images: Tensor, pad: int) -> Tensor:
    """Return `[B, C, H, W]` with each image moved by up to `pad` pixels, zeros coming in.

    The offsets come from torch's global generator.
    """
    count, _, height, width = images.shape
    padded = F.pad(images, (pad, pad, pad, pad))
    top, left = torch.randint(0, 2 * pad + 1, (2, count, 1), device=images.device)
    rows = top + torch.arange(height, device=images.device)
    columns = left + torch.arange(width, device=images.device)
    each = torch.arange(count, device=images.device)[:, None, None]
    # Indices on both sides of the slice put the channels last.
    return padded[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def flip(images: Tensor) -> Tensor:
    """Return `[B, C, H, W]` with half of the images, chosen by chance, mirrored left to right."""
    chosen = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return torch.where(chosen, images.flip(3), images)
