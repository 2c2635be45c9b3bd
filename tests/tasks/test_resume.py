"""A run that is stopped at any moment goes on as if nothing had happened."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision

from ode_core.cli import main
from ode_core.protocols import RunConfig
from ode_tasks import devices, files, record
from ode_tasks.run import Silent
from ode_tasks.stopping import Stopped, deferred, stoppable
from ode_tasks.train import Schedule, fit, loader

KILLS = 10
LINEAR = ["run", "linear", "--quiet", "--set", "epochs=24", "--set", "width=8"]
DIGITS = [
    "run", "digits", "--quiet", "--solver", "euler", "--set", "train_images=96",
    "--set", "test_images=40", "--set", "width=4", "--set", "epochs=3", "--set", "crop=1",
    "--set", "flip=true",
]  # fmt: skip
NEEDED = [
    "ode_tasks.commands",
    "ode_tasks.linear",
    "ode_models.neural_ode",
    "ode_solvers.methods",
    "ode_solvers.plugin",
]


def rows(out, kind):
    lines = (out / record.LOG).read_text().splitlines() if (out / record.LOG).exists() else []
    found = [json.loads(line) for line in lines if line.endswith("}")]
    return [row for row in found if row["kind"] == kind]


def curve(out):
    history = json.loads((out / "metrics.json").read_text())["history"]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history]


def same_model(one, other):
    weights = [record.read(out / record.CHECKPOINT)["model"] for out in (one, other)]
    return all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.fixture(scope="module")
def server():
    """Start processes that have torch imported already: a start costs milliseconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(NEEDED)
    return context


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "run"
    assert main([*LINEAR, "--out", str(out)]) == 0
    return out


def start(server, arguments):
    process = server.Process(target=main, args=(arguments,))
    process.start()
    return process


def wait_for(process, condition):
    end = time.monotonic() + 60
    while not condition():
        assert process.is_alive(), f"the run ended by itself, status {process.exitcode}"
        assert time.monotonic() < end, "the run makes no progress"
        time.sleep(0.001)


def lines(out):
    path = out / record.LOG
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_ten_kills_change_nothing(server, alone, tmp_path):
    out, chance = tmp_path / "run", random.Random(7)
    total = len(rows(alone, "step"))
    per_epoch = total // 24
    for _ in range(KILLS):
        before = lines(out)
        process = start(server, [*LINEAR, "--out", str(out), "--resume"])
        more = chance.randint(1, total // KILLS)
        wait_for(process, lambda before=before, more=more: lines(out) >= before + more)
        time.sleep(chance.uniform(0, 0.02))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
    assert main([*LINEAR, "--out", str(out), "--resume"]) == 0
    assert curve(out) == curve(alone)
    assert same_model(out, alone)
    taken = [row["step"] for row in rows(out, "step")]
    again = [earlier - later + 1 for earlier, later in itertools.pairwise(taken)]
    assert sorted(set(taken)) == list(range(1, total + 1))
    assert max(again) <= per_epoch, "more than an epoch was made again"
    assert sum(repeated > 0 for repeated in again) <= KILLS
    losses = {row["step"]: row["loss"] for row in rows(alone, "step")}
    assert all(row["loss"] == losses[row["step"]] for row in rows(out, "step"))
    assert [row["epoch"] for row in rows(out, "epoch")] == list(range(1, 25))
    left = {path.name for path in out.iterdir()}
    assert left >= {record.CHECKPOINT, record.LOG, "metrics.json"}


def test_sigterm_saves_within_the_epoch_and_says_how_to_go_on(server, alone, tmp_path):
    out = tmp_path / "run"
    status = server.Value("i", -1)
    process = server.Process(target=_status, args=([*LINEAR, "--out", str(out)], status))
    process.start()
    wait_for(process, lambda: lines(out) >= 31)
    os.kill(process.pid, signal.SIGTERM)
    process.join(60)
    assert status.value == 143
    made = rows(out, "step")[-1]["step"]
    assert record.read(out / record.CHECKPOINT)["position"]["step"] == made
    assert main([*LINEAR, "--out", str(out), "--resume"]) == 0
    assert curve(out) == curve(alone)
    assert len(rows(out, "step")) == len(rows(alone, "step")), "no step was made twice"


def _status(arguments, status):
    status.value = main(arguments)


class Interrupting:
    """Progress that sends a signal to its own process at some step."""

    def __init__(self, at, number):
        self.at, self.number = at, number

    def start(self, total, text):
        pass

    def advance(self, text=""):
        self.at -= 1
        if self.at == 0:
            os.kill(os.getpid(), self.number)


@pytest.fixture
def interrupting(monkeypatch):
    """Make `ode run` interrupt itself at that step of that signal."""
    from contextlib import contextmanager

    from ode_tasks import commands

    def arrange(at, number):
        @contextmanager
        def shown(output, prefix):
            yield Interrupting(at, number)

        monkeypatch.setattr(commands, "shown", shown)

    return arrange


@pytest.mark.parametrize(
    ("number", "status", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_augmented_images_go_on_bit_for_bit(
    number, status, word, interrupting, capsys, tmp_path, monkeypatch
):
    """Crops and mirrors come from torch's own generator, whose state goes along."""
    out, alone = tmp_path / "out", tmp_path / "alone"
    quiet = [argument for argument in DIGITS if argument != "--quiet"]
    assert main([*DIGITS, "--out", str(alone)]) == 0
    interrupting(5, number)
    assert main([*quiet, "--out", str(out)]) == status
    err = capsys.readouterr().err
    assert err == (
        f"ode: {word}; the run of digits is not finished; the same command with --resume goes on "
        f"from {out / record.CHECKPOINT}\n"
    )
    monkeypatch.undo()
    assert main([*DIGITS, "--out", str(out), "--resume"]) == 0
    assert curve(out) == curve(alone)
    assert same_model(out, alone)


def test_early_stopping_goes_on_with_what_it_has_seen(interrupting, tmp_path, monkeypatch):
    patient = [
        *DIGITS, "--set", "epochs=30", "--set", "validation_images=24", "--set", "batch=24",
        "--set", "patience=2", "--set", "milestones=2,3", "--set", "warmup=1", "--set", "clip=1",
    ]  # fmt: skip
    out, alone = tmp_path / "out", tmp_path / "alone"
    assert main([*patient, "--out", str(alone)]) == 0
    epochs = len(curve(alone))
    assert 3 <= epochs < 30
    interrupting(3 * (epochs - 1) + 1, signal.SIGTERM)
    assert main([*patient, "--out", str(out)]) == 143
    monkeypatch.undo()
    assert main([*patient, "--out", str(out), "--resume"]) == 0
    assert curve(out) == curve(alone)
    scores = [json.loads((path / "metrics.json").read_text())["score"] for path in (out, alone)]
    assert scores[0] == scores[1]


def test_without_a_folder_an_interrupted_run_says_what_would_help(interrupting, capsys):
    interrupting(2, signal.SIGTERM)
    assert main([argument for argument in DIGITS if argument != "--quiet"]) == 143
    assert "left no metrics; with --out DIR it could go on" in capsys.readouterr().err


def test_handlers_are_put_back(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert main([*DIGITS, "--out", str(tmp_path / "run")]) == 0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.fixture
def stopped(alone, tmp_path):
    """A run of LINEAR that was killed after its last epoch."""
    out = tmp_path / "stopped"
    shutil.copytree(alone, out)
    (out / "metrics.json").unlink()
    return out


def test_a_run_whose_checkpoint_was_deleted_says_so(stopped, capsys):
    (stopped / record.CHECKPOINT).unlink()
    assert main([*LINEAR, "--out", str(stopped), "--resume"]) == 2
    err = capsys.readouterr().err
    assert f"{stopped / record.CHECKPOINT} is gone, though metrics.jsonl" in err
    assert "tells of 24 epochs" in err
    assert err.count("\n") == 1


def test_a_run_killed_after_its_last_epoch_trains_no_more(stopped, alone):
    assert main([*LINEAR, "--out", str(stopped), "--resume"]) == 0
    assert curve(stopped) == curve(alone)
    assert len(rows(stopped, "step")) == len(rows(alone, "step"))
    row, left_alone = (json.loads((o / "metrics.json").read_text()) for o in (stopped, alone))
    assert row["field_error"] == left_alone["field_error"]


def test_the_log_is_mended_where_a_kill_has_cut_it(stopped, alone):
    log = stopped / record.LOG
    whole = log.read_text()
    last = whole.splitlines()[-1]
    assert json.loads(last)["kind"] == "epoch"
    log.write_text(whole.removesuffix(last + "\n") + '{"kind": "st')
    assert main([*LINEAR, "--out", str(stopped), "--resume"]) == 0
    assert rows(stopped, "epoch") == rows(alone, "epoch")
    assert all(json.loads(line) for line in log.read_text().splitlines())


def test_a_cut_checkpoint_is_refused(stopped, capsys):
    path = stopped / record.CHECKPOINT
    path.write_bytes(path.read_bytes()[:-1000])
    assert main([*LINEAR, "--out", str(stopped), "--resume"]) == 1
    err = capsys.readouterr().err
    assert "is no checkpoint of a run" in err
    assert err.count("\n") == 1


def test_a_checkpoint_that_holds_code_is_not_opened(stopped, capsys, tmp_path, monkeypatch):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "evil",))

    torch.save({"format": 1, "evil": Evil()}, stopped / record.CHECKPOINT)
    assert main([*LINEAR, "--out", str(stopped), "--resume"]) == 1
    assert "is no checkpoint of a run" in capsys.readouterr().err
    assert not (tmp_path / "evil").exists()


def test_another_runs_checkpoint_is_refused(stopped, capsys):
    assert main([*LINEAR, "--out", str(stopped), "--resume", "--seed", "3"]) == 2
    assert "seed 0 and not 3" in capsys.readouterr().err


def test_a_stopped_run_is_not_written_over_by_accident(stopped, capsys):
    before = (stopped / record.CHECKPOINT).read_bytes()
    assert main([*LINEAR, "--out", str(stopped)]) == 2
    assert "go on with --resume" in capsys.readouterr().err
    assert (stopped / record.CHECKPOINT).read_bytes() == before


def test_a_finished_run_is_shown_and_not_run_again(alone, capsys):
    before = (alone / record.LOG).read_bytes()
    assert main([*LINEAR, "--out", str(alone), "--resume", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["epoch_seconds"] == json.loads((alone / "metrics.json").read_text())["epoch_seconds"]
    assert (alone / record.LOG).read_bytes() == before
    assert main([*LINEAR, "--out", str(alone), "--resume", "--seed", "1"]) == 2
    assert "a run with another seed" in capsys.readouterr().err


def test_resume_of_nothing_begins_and_says_so(tmp_path, capsys):
    loud = [argument for argument in DIGITS if argument != "--quiet"]
    assert main([*loud, "--out", str(tmp_path / "run"), "--resume"]) == 0
    assert f"no run is in {tmp_path / 'run'} yet; it starts" in capsys.readouterr().err


def test_a_second_signal_ends_at_once():
    def twice():
        with deferred() as asked:
            os.kill(os.getpid(), signal.SIGTERM)
            assert asked.number == signal.SIGTERM
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Stopped) as caught:
        twice()
    assert (caught.value.status, caught.value.saved) == (130, False)


def test_a_signal_outside_of_training_ends_at_once():
    with pytest.raises(Stopped) as caught, stoppable():
        os.kill(os.getpid(), signal.SIGTERM)
    assert caught.value.status == 143


def test_a_full_disk_is_a_sentence_and_leaves_the_last_checkpoint_whole(tmp_path, capsys):
    """A limit on the size of files stands in for a disk that is full: the system says the same."""
    out = tmp_path / "run"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, limits[1]))
    try:
        assert main([*DIGITS, "--out", str(out)]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    err = capsys.readouterr().err
    assert err.startswith(f"ode: nothing can be written to {out} (File too large)")
    assert err.count("\n") == 1
    assert [path.name for path in out.iterdir()] == [record.LOG]
    assert main([*DIGITS, "--out", str(out), "--resume"]) == 0


def test_a_folder_that_cannot_be_made_is_a_sentence_before_training(capsys):
    assert main([*DIGITS, "--out", "/proc/run"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("ode: nothing can be written to /proc/run (")
    assert err.count("\n") == 1


def test_a_failed_replacement_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    files.replace(path, b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(files.OutputError, match="nothing can be written"):
            files.replace(path, b"new" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_score_that_is_no_number_is_null_in_the_log(tmp_path):
    config = RunConfig("linear", "neural_ode", "", "", out=tmp_path / "run", checkpoint=True)
    kept = record.keeper(config)
    kept.load()
    kept.epoch({"epoch": 1, "test_score": float("nan")}, 5)
    kept.close()
    assert rows(tmp_path / "run", "epoch") == [{"kind": "epoch", "epoch": 1, "test_score": None}]


def test_random_states_come_back():
    def draw():
        return random.random(), np.random.normal(), torch.randn(2).tolist()

    np.random.normal()  # leaves a second number waiting within the generator
    states = devices.random_state(torch.device("cpu"))
    first = draw()
    draw()
    devices.set_random_state(states, torch.device("cpu"))
    assert draw() == first


def scalars(out, name):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / record.TENSORBOARD))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_tensorboard_gets_the_losses_of_a_run_that_was_stopped_once_each(
    interrupting, tmp_path, monkeypatch
):
    out = tmp_path / "run"
    interrupting(5, signal.SIGTERM)
    assert main([*DIGITS, "--out", str(out), "--tensorboard"]) == 143
    monkeypatch.undo()
    assert main([*DIGITS, "--out", str(out), "--tensorboard", "--resume"]) == 0
    losses = [(row["step"], pytest.approx(row["loss"])) for row in rows(out, "step")]
    assert scalars(out, "loss") == losses
    assert [step for step, _ in scalars(out, "epoch/test_score")] == [3, 6, 9]


def test_a_missing_package_of_tensorboard_is_one_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(record.importlib.util, "find_spec", lambda name: None)
    assert main([*DIGITS, "--out", str(tmp_path / "other"), "--tensorboard"]) == 2
    assert "pip install 'ode-tasks[tensorboard]'" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_the_scale_of_a_16_bit_loss_goes_along(tmp_path):
    def train(resume):
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
        fabric = Fabric(
            accelerator="cpu", plugins=[MixedPrecision("16-mixed", "cpu", scaler=scaler)]
        )
        model = torch.nn.Linear(1, 1)
        fit(
            model,
            loader((torch.linspace(-1, 1, 64)[:, None],), 16, seed=0),
            lambda net, batch: (net(batch[0]) - 1).square().mean(),
            optimiser=torch.optim.SGD(model.parameters(), lr=0.1),
            schedule=Schedule(2),
            evaluate=lambda net: {},
            fabric=fabric,
            progress=Silent(),
            config=RunConfig(
                "linear", "neural_ode", "", "", out=tmp_path, checkpoint=True, resume=resume
            ),
        )
        return scaler.get_scale()

    assert train(resume=False) == 8 * 2**4
    assert train(resume=True) == 8 * 2**4, "no step is left, the scale is the checkpoint's"
