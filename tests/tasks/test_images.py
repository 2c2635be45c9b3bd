"""What happens to images between the loader and the network, and the built-in digits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ode_tasks.data import digits
from ode_tasks.data.images import Images, Normalise, balanced, crop, flip


def test_balanced_takes_the_first_of_every_class_in_turn():
    labels = np.array([0, 0, 0, 1, 2, 1, 2, 0])
    assert balanced(labels, 3).tolist() == [0, 3, 4]
    assert balanced(labels, 6).tolist() == [0, 1, 3, 4, 5, 6]
    assert balanced(labels, 100).tolist() == list(range(8))


def test_normalise_gives_each_channel_mean_0_and_deviation_1():
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (20, 3, 4, 4), dtype=torch.uint8)
    pixels[:, 1] //= 4
    pixels[:, 2] = 7  # a flat channel must not become NaN
    images = Normalise.of(Images(pixels, torch.zeros(20, dtype=torch.int64)))(pixels)
    assert images.dtype == torch.float32
    assert torch.allclose(images.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(
        images.std(dim=(0, 2, 3), correction=0), torch.tensor([1.0, 1.0, 0.0]), atol=1e-5
    )


def test_crop_moves_each_image_by_its_own_offset_and_fills_with_zeros():
    torch.manual_seed(0)
    image = torch.arange(1.0, 2 * 5 * 6 + 1).reshape(1, 2, 5, 6)
    moved = crop(image.expand(200, -1, -1, -1), 2)
    assert moved.shape == (200, 2, 5, 6)
    padded = torch.nn.functional.pad(image, (2, 2, 2, 2))[0]
    allowed = {
        tuple(padded[:, i : i + 5, j : j + 6].flatten().tolist())
        for i in range(5)
        for j in range(5)
    }
    seen = {tuple(one.flatten().tolist()) for one in moved}
    assert seen == allowed


def test_flip_mirrors_about_half_of_the_images():
    torch.manual_seed(0)
    image = torch.arange(2 * 3 * 4.0).reshape(1, 2, 3, 4)
    flipped = flip(image.expand(400, -1, -1, -1))
    same = (flipped == image).flatten(1).all(1)
    mirrored = (flipped == image.flip(3)).flatten(1).all(1)
    assert (same | mirrored).all()
    assert 150 < int(mirrored.sum()) < 250


def test_digits_are_split_without_overlap_and_in_proportion():
    split = digits.load(10_000, 10_000)
    assert split.train.pixels.shape == (1437, 1, 8, 8)
    assert split.test.pixels.shape == (360, 1, 8, 8)
    assert split.train.pixels.dtype == torch.uint8
    assert (int(split.train.pixels.min()), int(split.train.pixels.max())) == (0, 255)
    assert split.classes == tuple("0123456789")
    tested = split.test.labels.bincount() / (
        split.test.labels.bincount() + split.train.labels.bincount()
    )
    assert (tested - 0.2).abs().max() < 0.005


def test_digits_are_the_same_every_time_and_a_subset_is_balanced():
    first, again = digits.load(100, 50), digits.load(100, 50)
    assert torch.equal(first.train.pixels, again.train.pixels)
    assert first.train.labels.bincount().tolist() == [10] * 10
    assert first.test.labels.bincount().tolist() == [5] * 10


def test_digits_show_what_their_labels_say():
    # A zero has its middle empty, a one has it full.
    split = digits.load(1437, 360)
    middle = split.train.pixels[:, 0, 3:5, 3:5].float().mean(dim=(1, 2))
    zeros, ones = (middle[split.train.labels == label].mean() for label in (0, 1))
    assert zeros < 40 < 180 < ones


@pytest.mark.parametrize("pad", [1, 4])
def test_crop_keeps_what_is_contiguous(pad):
    assert crop(torch.ones(3, 1, 8, 8), pad).is_contiguous()
