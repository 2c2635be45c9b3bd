"""The handwritten digits that scikit-learn ships: 1,797 grey images of 8x8 pixels."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from ode_tasks.data.images import Images, Split, balanced

_TEST = 360
_GREY_LEVELS = 16


def load(train: int, test: int) -> Split:
    """Return at most `train` and `test` digits as `[N, 1, 8, 8]` uint8.

    The split is always the same: 1,437 to train and 360 to test, each class in proportion. The 17
    grey levels are spread over 0 to 255.
    """
    digits = load_digits()
    pixels = np.round(digits.images * (255 / _GREY_LEVELS)).astype(np.uint8)[:, None]
    labels = digits.target.astype(np.int64)
    parts = train_test_split(
        np.arange(len(labels)), test_size=_TEST, random_state=0, stratify=labels
    )
    images = []
    for positions, count in zip(parts, (train, test), strict=True):
        chosen = positions[balanced(labels[positions], count)]
        images.append(Images(torch.from_numpy(pixels[chosen]), torch.from_numpy(labels[chosen])))
    return Split(images[0], images[1], tuple(str(name) for name in digits.target_names))
