"""CIFAR-10 from its three layouts, and a sentence for every folder that is none of them."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from ode_core import DataError
from ode_tasks.data import cifar10

REAL = Path(__file__).resolve().parents[2].parent / "shared/data/cifar10"
COUNTS = {"train": 50, "test": 20}


@pytest.fixture(scope="module")
def arrays():
    """Return split → (images `[N, 32, 32, 3]`, labels), the labels mixed but in equal parts."""
    rng = np.random.default_rng(0)
    made = {}
    for split, count in COUNTS.items():
        labels = rng.permutation(np.arange(count) % 10)
        made[split] = (rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), labels)
    return made


def encoded(image, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, lossless=True)
    return buffer.getvalue()


def write_parquet(folder, arrays, kind="PNG"):
    for split, (images, labels) in arrays.items():
        cells = [{"bytes": encoded(image, kind), "path": "x.png"} for image in images]
        half = len(cells) // 2
        for part, rows in enumerate((slice(0, half), slice(half, None))):
            table = pa.table({"img": cells[rows], "label": labels[rows]})
            name = f"{split}-0000{part}-of-00002.parquet"
            pq.write_table(table, folder / name, row_group_size=7)


def write_pickles(folder, arrays):
    (folder / "cifar-10-batches-py").mkdir()
    images, labels = arrays["train"]
    batches = {
        f"data_batch_{n + 1}": (images[10 * n : 10 * n + 10], labels[10 * n : 10 * n + 10])
        for n in range(5)
    }
    for name, (pixels, own) in (batches | {"test_batch": arrays["test"]}).items():
        data = pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1)
        batch = {b"data": data, b"labels": own.tolist(), b"batch_label": b"testing"}
        (folder / "cifar-10-batches-py" / name).write_bytes(pickle.dumps(batch, protocol=2))


def write_tree(folder, arrays):
    for split, (images, labels) in arrays.items():
        for name in cifar10.CLASSES:
            (folder / split / name).mkdir(parents=True)
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = folder / split / cifar10.CLASSES[label] / f"{number:04}.png"
            path.write_bytes(encoded(image))


WRITERS = {"parquet": write_parquet, "pickles": write_pickles, "tree": write_tree}


def pairs(images):
    return sorted(
        (int(label), pixels.numpy().tobytes())
        for pixels, label in zip(images.pixels, images.labels, strict=True)
    )


@pytest.mark.parametrize("layout", WRITERS)
def test_every_layout_gives_the_same_images_and_labels(layout, tmp_path, arrays):
    WRITERS[layout](tmp_path, arrays)
    split = cifar10.load(tmp_path, 1000, 1000)
    assert split.classes == cifar10.CLASSES
    for part, (images, labels) in zip((split.train, split.test), arrays.values(), strict=True):
        assert part.pixels.dtype == torch.uint8
        assert part.labels.dtype == torch.int64
        expected = [
            (int(label), image.transpose(2, 0, 1).tobytes())
            for image, label in zip(images, labels, strict=True)
        ]
        assert pairs(part) == sorted(expected)


@pytest.mark.parametrize("layout", WRITERS)
def test_a_part_has_equally_many_of_each_class_and_right_labels(layout, tmp_path, arrays):
    WRITERS[layout](tmp_path, arrays)
    split = cifar10.load(tmp_path, 20, 10)
    assert split.train.labels.bincount().tolist() == [2] * 10
    assert split.test.labels.bincount().tolist() == [1] * 10
    assert set(pairs(split.train)) <= set(pairs(cifar10.load(tmp_path, 1000, 1000).train))


def test_the_folder_of_the_pickles_themselves_will_do(tmp_path, arrays):
    write_pickles(tmp_path, arrays)
    assert len(cifar10.load(tmp_path / "cifar-10-batches-py", 1000, 1000).train.labels) == 50


def test_parquet_may_hold_webp(tmp_path, arrays):
    write_parquet(tmp_path, arrays, "WEBP")
    assert len(cifar10.load(tmp_path, 10, 10).train.labels) == 10


def test_only_what_is_asked_for_is_decoded(tmp_path, arrays, monkeypatch):
    write_parquet(tmp_path, arrays)
    opened = []
    original = Image.open
    monkeypatch.setattr(Image, "open", lambda file: opened.append(1) or original(file))
    cifar10.load(tmp_path, 10, 10)
    assert len(opened) == 20


def spoilt(tmp_path, arrays, layout, spoil):
    WRITERS[layout](tmp_path, arrays)
    spoil(tmp_path)
    return tmp_path


def rewrite(columns):
    def spoil(folder):
        path = next(folder.glob("train-00000*"))
        pq.write_table(columns(pq.read_table(path)), path)

    return spoil


def small_image(table):
    cells = table["img"].to_pylist()
    cells[0] = {"bytes": encoded(np.zeros((28, 30, 3), np.uint8)), "path": ""}
    return table.set_column(0, "img", pa.array(cells))


def broken_image(table):
    cells = table["img"].to_pylist()
    cells[0] = {"bytes": b"no image", "path": ""}
    return table.set_column(0, "img", pa.array(cells))


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("evil"),))


def batch_file(content):
    def spoil(folder):
        path = folder / "cifar-10-batches-py" / "data_batch_2"
        path.write_bytes(content(path.read_bytes()))

    return spoil


def replace_class(folder):
    (folder / "train" / "cat").rename(folder / "train" / "lion")


def empty_class(folder):
    for path in (folder / "test" / "dog").iterdir():
        path.unlink()


SPOILT = {
    "no test split": (
        "parquet",
        lambda f: [p.unlink() for p in f.glob("test-*")],
        "no test images",
    ),
    "no labels": (
        "parquet",
        rewrite(lambda t: t.rename_columns(["img", "fine_label"])),
        "columns img, fine_label; expected img",
    ),
    "images of another kind": (
        "parquet",
        rewrite(lambda t: t.set_column(0, "img", pa.array(["x"] * len(t)))),
        "expected img (a struct",
    ),
    "not Parquet": (
        "parquet",
        lambda f: next(f.glob("train-00001*")).write_bytes(b"PAR1"),
        "is no Parquet file",
    ),
    "a label of 10": (
        "parquet",
        rewrite(lambda t: t.set_column(1, "label", pa.array([10] * len(t)))),
        "the label 10; labels of CIFAR-10 are 0 to 9",
    ),
    "a small image": ("parquet", rewrite(small_image), "is 30x28; those of CIFAR-10 are 32x32"),
    "a broken image": ("parquet", rewrite(broken_image), "row 0 of row group 0 cannot be read"),
    "a missing batch": (
        "pickles",
        lambda f: (f / "cifar-10-batches-py/data_batch_3").unlink(),
        "has no file data_batch_3; expected data_batch_1",
    ),
    "a cut batch": ("pickles", batch_file(lambda c: c[:20_000]), "the file may be cut short"),
    "a batch of code": ("pickles", batch_file(lambda c: pickle.dumps(Evil())), "it refers to"),
    "another pickle": ("pickles", batch_file(lambda c: pickle.dumps([1])), "is no batch of CIFAR"),
    "another class": ("tree", replace_class, "missing: cat"),
    "an empty class": ("tree", empty_class, "dog holds no image"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_data_that_are_not_what_they_should_be_are_one_sentence(
    case, tmp_path, arrays, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    layout, spoil, words = SPOILT[case]
    folder = tmp_path / "data"
    folder.mkdir()
    with pytest.raises(DataError) as caught:
        cifar10.load(spoilt(folder, arrays, layout, spoil), 1000, 1000)
    assert words in str(caught.value)
    assert str(folder) in str(caught.value)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.write_text(""), "is a file"),
        (lambda path: path.mkdir(), "holds nothing"),
        (lambda path: (path / "photos").mkdir(parents=True), "holds photos, no train images"),
    ],
)
def test_a_folder_without_images_says_what_was_found_and_expected(make, words, tmp_path):
    make(tmp_path / "data")
    with pytest.raises(DataError) as caught:
        cifar10.load(tmp_path / "data", 10, 10)
    assert words in str(caught.value)
    for layout in ("cifar-10-batches-py", "train-*.parquet", "train/<class>/*.png"):
        assert layout in str(caught.value)


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the shared data folder")
def test_the_real_images():
    split = cifar10.load(REAL, 1000, 200)
    assert split.train.pixels.shape == (1000, 3, 32, 32)
    assert split.train.labels.bincount().tolist() == [100] * 10
    assert split.test.labels.bincount().tolist() == [20] * 10
    # The well-known means of the whole set, per channel.
    means = split.train.pixels.double().mean(dim=(0, 2, 3)) / 255
    assert torch.allclose(means, torch.tensor([0.4914, 0.4822, 0.4465]).double(), atol=0.02)
