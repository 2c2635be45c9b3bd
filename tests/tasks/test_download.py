"""Downloads: checked, unpacked in one go, kept in one folder, and a sentence when offline."""

from __future__ import annotations

import hashlib
import socket
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import platformdirs
import pytest

from ode_core import DataError
from ode_tasks.data import cifar10, download
from ode_tasks.run import Silent


@pytest.fixture
def remote(tmp_path):
    """An archive with one file, as if it lay on the network."""
    source = tmp_path / "source"
    (source / "things").mkdir(parents=True)
    (source / "things" / "one").write_text("1")
    with tarfile.open(source / "things.tar.gz", "w:gz") as archive:
        archive.add(source / "things", "things")
    content = (source / "things.tar.gz").read_bytes()
    return download.Remote(
        "Things",
        (source / "things.tar.gz").as_uri(),
        "things.tar.gz",
        "things",
        md5=hashlib.md5(content).hexdigest(),
        bytes=len(content),
        licence="CC0",
    )


def kept(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_it_is_fetched_once_with_its_licence_shown(remote, tmp_path):
    folder = tmp_path / "cache"
    with pytest.warns(UserWarning, match=r"fetching Things .* licence: CC0"):
        download.fetch(remote, folder, Silent())
    assert kept(folder) == ["things", "things.tar.gz"]
    assert (folder / "things" / "one").read_text() == "1"
    gone = replace(remote, url=remote.url + ".gone")
    download.fetch(gone, folder, Silent())  # nothing is asked of the network


def test_an_archive_put_there_by_hand_is_unpacked(remote, tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / remote.file).write_bytes(Path(remote.url.removeprefix("file://")).read_bytes())
    download.fetch(replace(remote, url="http://127.0.0.1:1/things"), folder, Silent())
    assert (folder / "things" / "one").read_text() == "1"


@pytest.mark.filterwarnings("ignore:fetching Things")
def test_of_many_that_want_it_one_fetches(remote, tmp_path, monkeypatch):
    fetched, original = [], download._download

    def slow(*arguments):
        fetched.append(1)
        time.sleep(0.1)
        original(*arguments)

    monkeypatch.setattr(download, "_download", slow)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: download.fetch(remote, tmp_path / "cache", Silent()), range(4)))
    assert fetched == [1]
    assert kept(tmp_path / "cache") == ["things", "things.tar.gz"]


def closed_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.filterwarnings("ignore:fetching Things")
def test_offline_it_says_where_to_put_the_file(remote, tmp_path):
    folder = tmp_path / "cache"
    offline = replace(remote, url=f"http://127.0.0.1:{closed_port()}/things.tar.gz")
    with pytest.raises(DataError) as caught:
        download.fetch(offline, folder, Silent())
    for words in (f"put things.tar.gz into {folder} by hand", "Connection refused", "--data DIR"):
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert kept(folder) == []


@pytest.mark.filterwarnings("ignore:fetching Things")
def test_what_has_another_checksum_is_not_kept(remote, tmp_path):
    folder = tmp_path / "cache"
    with pytest.raises(DataError, match=r"md5 \w+, expected 0123"):
        download.fetch(replace(remote, md5="0123"), folder, Silent())
    assert kept(folder) == []


def test_a_cut_archive_put_there_by_hand_is_refused(remote, tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / remote.file).write_bytes(b"cut")
    with pytest.raises(DataError, match=r"things.tar.gz is not Things .* cut short"):
        download.fetch(remote, folder, Silent())
    assert kept(folder) == ["things.tar.gz"]


def test_the_cache_is_the_variables_folder_or_the_platforms(tmp_path, monkeypatch):
    monkeypatch.setenv("ODE_DATA_DIR", str(tmp_path))
    assert cifar10.cached() == tmp_path / "cifar10"
    monkeypatch.delenv("ODE_DATA_DIR")
    assert cifar10.cached() == platformdirs.user_cache_path("ode", appauthor=False) / "cifar10"
