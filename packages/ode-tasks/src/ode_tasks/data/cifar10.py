"""CIFAR-10 from a folder: torchvision's pickles, Hugging Face's Parquet files, or image files.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

from __future__ import annotations

import io
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image, UnidentifiedImageError

from ode_core.errors import DataError
from ode_tasks.data import download
from ode_tasks.data.images import Images, Split, balanced

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from ode_core.protocols import Progress

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
_SHAPE = (3, 32, 32)
_PICKLES = "cifar-10-batches-py"
ARCHIVE = download.Remote(
    "CIFAR-10",
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    "cifar-10-python.tar.gz",
    _PICKLES,
    md5="c58f30108f718f92721af3b95e74349a",
    bytes=170_498_071,
    licence="none is stated; its authors ask to cite Krizhevsky, Learning Multiple Layers of "
    "Features from Tiny Images, 2009",
)
_BATCHES = {
    "train": tuple(f"data_batch_{number}" for number in range(1, 6)),
    "test": ("test_batch",),
}
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_EXPECTED = (
    "expected cifar-10-batches-py/ (as torchvision leaves it), or train-*.parquet and "
    "test-*.parquet with the columns img and label, or train/<class>/*.png and test/<class>/*.png"
)


def load(folder: Path, train: int, test: int) -> Split:
    """Return at most `train` and `test` images, the classes in equal parts, `[N, 3, 32, 32]` uint8.

    Only the images asked for are decoded. Raises DataError for a folder, file or image that is not
    what it should be.
    """
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "does not exist"
        raise DataError(f"{folder} {found}; {_EXPECTED}")
    pickles = folder if folder.name == _PICKLES else folder / _PICKLES
    parts: list[Images] = []
    for split, count in (("train", train), ("test", test)):
        if pickles.is_dir():
            parts.append(_from_pickles(pickles, split, count))
        elif files := sorted(folder.glob(f"{split}-*.parquet")):
            parts.append(_from_parquet(files, count))
        elif (folder / split).is_dir():
            parts.append(_from_tree(folder / split, count))
        else:
            names = sorted(path.name for path in folder.iterdir())
            listing = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
            raise DataError(
                f"{folder} holds {listing or 'nothing'}, no {split} images; {_EXPECTED}"
            )
    return Split(parts[0], parts[1], CLASSES)


def fetch(folder: Path, progress: Progress) -> None:
    """Fetch the archive into `folder` and unpack it there, unless its pickles are there already.

    Raises DataError where that cannot be done.
    """
    download.fetch(ARCHIVE, folder, progress)


def cached() -> Path:
    """Return the folder that images are fetched into where the user names none."""
    return download.cache("cifar10")


class _Arrays(pickle.Unpickler):
    """Opens pickles that hold arrays, lists and texts, and refuses any other object.

    A pickle can run any code when it is opened; data has no need of that.
    """

    _allowed = ("_reconstruct", "ndarray", "dtype", "encode")

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] in ("numpy", "_codecs") and name in self._allowed:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it refers to {module}.{name}")


def _from_pickles(folder: Path, split: str, count: int) -> Images:
    pixels, labels = [], []
    for name in _BATCHES[split]:
        path = folder / name
        if not path.is_file():
            raise DataError(f"{folder} has no file {name}; expected {', '.join(_BATCHES[split])}")
        try:
            with path.open("rb") as file:
                batch = _Arrays(file, encoding="bytes").load()
            data = np.asarray(batch[b"data"]).reshape(-1, *_SHAPE).astype(np.uint8, copy=False)
            pixels.append(data)
            labels.append(_checked(np.asarray(batch[b"labels"]), path, len(data)))
        except (pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path} is no batch of CIFAR-10 ({type(error).__name__}: {error}); expected a "
                "pickled dict with data [n, 3072] and labels; the file may be cut short"
            ) from None
    chosen = balanced(np.concatenate(labels), count)
    return _images(np.concatenate(pixels)[chosen], np.concatenate(labels)[chosen])


def _from_parquet(files: Sequence[Path], count: int) -> Images:
    groups = list(_row_groups(files))
    columns = [_column(path, group, "label").to_numpy() for path, group in groups]
    labels = [
        _checked(column, path, len(column))
        for column, (path, _) in zip(columns, groups, strict=True)
    ]
    sizes = [len(column) for column in labels]
    chosen = balanced(np.concatenate(labels), count)
    pixels, first = [], 0
    for (path, group), size in zip(groups, sizes, strict=True):
        rows = chosen[(chosen >= first) & (chosen < first + size)] - first
        first += size
        if len(rows):  # a group without a chosen row is never read
            cells = _column(path, group, "img").take(pa.array(rows)).to_pylist()
            pixels += [
                _decoded(cell["bytes"], f"{path}, row {row} of row group {group}")
                for cell, row in zip(cells, rows, strict=True)
            ]
    return _images(np.stack(pixels), np.concatenate(labels)[chosen])


def _row_groups(files: Sequence[Path]) -> Iterator[tuple[Path, int]]:
    for path in files:
        try:
            schema = pq.read_schema(path)
            count = pq.read_metadata(path).num_row_groups
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{path} is no Parquet file ({error}); {_EXPECTED}") from None
        image = schema.field("img").type if "img" in schema.names else None
        good = (
            image is not None and pa.types.is_struct(image) and image.get_field_index("bytes") >= 0
        )
        if not (good and "label" in schema.names):
            raise DataError(
                f"{path} has the columns {', '.join(schema.names) or 'none'}; expected img "
                "(a struct with bytes and path) and label"
            )
        yield from ((path, group) for group in range(count))


def _column(path: Path, group: int, name: str) -> Any:
    return pq.ParquetFile(path).read_row_group(group, columns=[name])[name]


def _from_tree(folder: Path, count: int) -> Images:
    found = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if found != sorted(CLASSES):
        missing = sorted(set(CLASSES) - set(found))
        raise DataError(
            f"{folder} holds the class folders {', '.join(found) or 'none'}; expected the ten of "
            f"CIFAR-10 (missing: {', '.join(missing) or 'none, there are too many'})"
        )
    paths, labels = [], []
    for label, name in enumerate(CLASSES):
        files = sorted(p for p in (folder / name).iterdir() if p.suffix.lower() in _SUFFIXES)
        if not files:
            raise DataError(
                f"{folder / name} holds no image; expected files {', '.join(_SUFFIXES)}"
            )
        paths += files
        labels += [label] * len(files)
    chosen = balanced(np.array(labels), count)
    pixels = [_decoded(paths[position].read_bytes(), str(paths[position])) for position in chosen]
    return _images(np.stack(pixels), np.array(labels)[chosen])


def _decoded(content: bytes, where: str) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(content)) as image:
            pixels = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    except (UnidentifiedImageError, OSError, TypeError) as error:
        raise DataError(f"the image in {where} cannot be read ({error})") from None
    if pixels.shape != _SHAPE:
        height, width = pixels.shape[1:]
        raise DataError(f"the image in {where} is {width}x{height}; those of CIFAR-10 are 32x32")
    return pixels


def _checked(labels: NDArray[Any], path: Path, images: int) -> NDArray[np.int64]:
    if len(labels) != images:
        raise DataError(f"{path} holds {images} images and {len(labels)} labels; expected as many")
    outside = [label for label in labels.tolist() if label not in range(len(CLASSES))]
    if outside:
        raise DataError(f"{path} holds the label {outside[0]!r}; labels of CIFAR-10 are 0 to 9")
    return labels.astype(np.int64)


def _images(pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> Images:
    return Images(torch.from_numpy(np.ascontiguousarray(pixels)), torch.from_numpy(labels))
