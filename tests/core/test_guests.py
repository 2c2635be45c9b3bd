"""What guests may do while they are loaded, what they may not, and what authors test that with."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import types
import warnings
from pathlib import Path

import pytest
import torch

import ode_core
from ode_core import (
    ArgumentError,
    PluginError,
    Reference,
    SolverRecord,
    UnknownNameError,
    discovery,
    hookimpl,
)
from ode_core.cli import main
from ode_core.containment import contained
from ode_core.loading import load
from ode_core.registry import REGISTRY, PluginWarning, Registry
from ode_core.testing import isolated_registry
from tests.acceptance.guests import install


def source(load, package="guest"):
    return discovery.Source(package, "1.0", package, f"{package}.plugin", load)


def module(hooks=(), **attributes):
    made = types.ModuleType("guest")
    for name, value in {**dict(hooks), **attributes}.items():
        setattr(made, name, value)
    return made


def yielding(*records):
    @hookimpl
    def ode_solvers():
        yield from records

    return {"ode_solvers": ode_solvers}


def record(name="mine", target="math:sqrt", **options):
    return SolverRecord(name, target, "a solver", order=1, adaptive=False, **options)


CHANGES = {
    "sys.path": lambda: sys.path.append("/nowhere"),
    "the working folder": lambda: os.chdir("/"),
    "the environment (RUDE)": lambda: os.environ.update(RUDE="1"),
    "the environment (HOME)": lambda: os.environ.pop("HOME"),
    "the warning filters": lambda: warnings.simplefilter("error"),
    "the signal handlers (SIGTERM)": lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
    "the signal handlers (40)": lambda: signal.signal(40, signal.SIG_IGN),
    "sys.excepthook": lambda: setattr(sys, "excepthook", print),
    "sys.stdout": lambda: setattr(sys, "stdout", sys.stderr),
    "the default dtype": lambda: torch.set_default_dtype(torch.float64),
    "the default device": lambda: torch.set_default_device("meta"),
    "gradient mode": lambda: torch.set_grad_enabled(False),
    "the random state of Python": lambda: random.seed(1),
    "the random state of torch": lambda: torch.manual_seed(1),
}


def process_state():
    return (
        list(sys.path), os.getcwd(), dict(os.environ), list(warnings.filters),
        signal.getsignal(signal.SIGTERM), sys.excepthook, sys.stdout, torch.get_default_dtype(),
        torch.get_default_device(), torch.is_grad_enabled(), random.getstate(),
        torch.get_rng_state().tolist(),
    )  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_what_a_guest_changes_is_named_and_put_back(what, monkeypatch):
    monkeypatch.setenv("HOME", "/root")
    before = process_state()
    with contained() as conduct:
        CHANGES[what]()
    assert conduct.changed == (what,)
    assert process_state() == before


def test_a_library_may_mute_its_own_message():
    with warnings.catch_warnings():
        with contained() as conduct:
            warnings.filterwarnings("ignore", message="size changed")
        assert conduct.changed == ()
        assert warnings.filters[0][1].pattern == "size changed"


@pytest.fixture
def interactive():
    """Ctrl-C as in a terminal: what is started in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interactive")
def test_ctrl_c_while_a_guest_is_imported_is_the_users_and_says_which_it_was():
    def hanging():
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as caught:
        load(source(hanging))
    assert (
        "it was importing guest; if that hangs, set ODE_PLUGINS_BLOCK" in caught.value.__notes__[0]
    )
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("interactive")
def test_the_command_line_says_which_guest_was_interrupted(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("ODE_PLUGIN_FILES", raising=False)
    path = tmp_path / "hanging_guest.py"
    path.write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    assert main(["--plugin", str(path), "list", "plugins"]) == 130
    os.environ.pop("ODE_PLUGIN_FILES")
    REGISTRY.refresh()
    assert "interrupted; it was importing hanging_guest.py" in capsys.readouterr().err


def test_a_guest_may_ask_the_registry_while_it_is_imported(monkeypatch):
    seen = []

    def curious():
        seen.extend(made.table("solver"))
        return module(yielding(record("late")))

    made = Registry()
    sources = [source(lambda: module(yielding(record("early"))), "a"), source(curious, "b")]
    monkeypatch.setattr(discovery, "find", lambda: sources)
    assert list(made.table("solver")) == ["early", "late"]
    assert seen == ["early"]


def test_a_missing_name_says_which_plugins_are_kept_away(monkeypatch):
    monkeypatch.setenv("ODE_PLUGINS_BLOCK", "guest")
    with isolated_registry(module(yielding(record()))) as (plugin,):
        assert plugin.status == "blocked"
        with pytest.raises(UnknownNameError, match="plugins kept away: guest"):
            ode_core.solvers["mine"]


@pytest.mark.parametrize(
    ("number", "status"), [((1, 0), "active"), ((1, 99), "incompatible"), ((0, 9), "incompatible"),
                           ("2", "failed")],
)  # fmt: skip
def test_the_number_of_the_plugin_api(number, status):
    plugin = load(source(lambda: module(yielding(record()), ODE_PLUGIN_API=number)))
    assert plugin.status == status
    assert bool(plugin.records) == (status == "active")
    if number == (0, 9):
        assert "pip install --upgrade guest" in plugin.sentence


@pytest.mark.parametrize(
    ("hooks", "said"),
    [
        ({}, "implements no hook"),
        (yielding(record(), record()), "yielded the solver 'mine' twice"),
        ({"ode_tasks": hookimpl(lambda: [record()])} , "which belongs to another hook"),
        ({"ode_solvers": hookimpl(lambda: None)}, "returned None, which is no series"),
        ({"ode_solvers": hookimpl(lambda config: ())}, "config"),
    ],
)  # fmt: skip
def test_rubbish_is_named(hooks, said):
    for name, hook in hooks.items():
        hook.__name__ = name
    assert said in load(source(lambda: module(hooks))).sentence


@pytest.mark.parametrize(
    "fields",
    [{"summary": None}, {"requires": ("scipy", "scipy")}, {"implicit": "no"}, {"source": "Euler"}],
)
def test_a_record_with_a_field_of_another_type_cannot_be_made(fields):
    given = {"summary": "s", "order": 1, "adaptive": False} | fields
    with pytest.raises(ArgumentError, match=next(iter(fields))):
        SolverRecord("mine", "math:sqrt", **given)


def test_a_target_that_exits_is_an_error_with_its_cause(tmp_path, monkeypatch):
    (tmp_path / "exiting_target.py").write_text("import sys\nsys.exit(2)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with (
        isolated_registry(module(yielding(record(target="exiting_target:make")))),
        pytest.raises(PluginError, match="SystemExit: 2"),
    ):
        ode_core.solvers.create("mine")


def test_what_a_target_changes_is_put_back_too(tmp_path, monkeypatch, capsys):
    (tmp_path / "rude_target.py").write_text(
        "import torch\ntorch.set_default_dtype(torch.float64)\nprint('hello')\nmake = dict\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with (
        isolated_registry(module(yielding(record(target="rude_target:make")))),
        pytest.warns(PluginWarning, match="rude_target of guest .*the default dtype"),
    ):
        ode_core.solvers.create("mine")
    assert torch.get_default_dtype() == torch.float32
    assert capsys.readouterr().out == ""


def test_an_isolated_registry_holds_the_suite_and_the_plugin_alone(monkeypatch):
    ode_core.register(record("elsewhere"))
    monkeypatch.setenv("ODE_PLUGIN_FILES", "no_such_file.py")
    with isolated_registry(module(yielding(record()))) as (plugin,):
        assert (plugin.status, plugin.sentence) == ("active", "")
        assert "mine" in ode_core.solvers
        assert "dopri5" in ode_core.solvers
        assert "elsewhere" not in ode_core.solvers
        ode_core.register(record("meanwhile"))
    monkeypatch.undo()
    assert "elsewhere" in ode_core.solvers
    assert not {"mine", "meanwhile"} & set(ode_core.solvers)
    REGISTRY.remove("solver", "elsewhere")


def test_an_isolated_plugin_can_be_named_and_its_faults_are_told(tmp_path, monkeypatch):
    (tmp_path / "loud_guest.py").write_text("print('hi')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with (
        pytest.warns(PluginWarning),
        isolated_registry("loud_guest") as (plugin,),
    ):
        assert (plugin.package, plugin.status) == ("loud-guest", "failed")
        assert "implements no hook" in plugin.sentence
        assert "printed 'hi'" in plugin.sentence


HANGS = """
import pathlib, subprocess, time
child = subprocess.Popen(["sleep", "1000"])
pathlib.Path(__file__).with_suffix(".pid").write_text(str(child.pid))
print("waiting", flush=True)
time.sleep(1000)
"""


@pytest.fixture(scope="module")
def diagnosis(tmp_path_factory):
    """`ode doctor` beside guests that take their process with them."""
    site = tmp_path_factory.mktemp("site")
    install(site, "rude-dies", "import os\nos._exit(7)")
    install(site, "rude-hangs", HANGS)
    install(site, "rude-crashes", "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)")
    install(site, "rude-raises", "raise RuntimeError('on purpose')")
    install(site, "good-guest", (
        "from ode_core import DiagnosticRecord, hookimpl\n"
        "@hookimpl\n"
        "def ode_diagnostics():\n"
        "    yield DiagnosticRecord('pulse', 'good_guest:pulse', 's')\n"
        "    yield DiagnosticRecord('broken', 'good_guest:broken', 's')\n"
        "def pulse():\n"
        "    return {'pulse': 'steady'}\n"
    ))  # fmt: skip
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    code = (
        "import sys\n"
        "from ode_core.cli import main\n"
        "assert main(['doctor', '--seconds', '5', *sys.argv[1:]]) == 0\n"
        "assert 'torch' not in sys.modules\n"
    )
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code, "--json"], env=environment,
                          capture_output=True, text=True, check=True)  # fmt: skip
    return json.loads(done.stdout), site


@pytest.mark.parametrize(
    ("name", "reason", "remedy"),
    [
        ("rude-dies", "ended the process with status 7", "ODE_PLUGINS_BLOCK=rude-dies"),
        ("rude-hangs", "took longer than 5 s (waiting)", "ODE_PLUGINS_BLOCK=rude-hangs"),
        ("rude-crashes", "crashed the process with SIGSEGV", "ODE_PLUGINS_BLOCK=rude-crashes"),
        ("rude-raises", "RuntimeError: on purpose", "mend or uninstall it"),
    ],
)
def test_the_doctor_survives_what_a_process_does_not(diagnosis, name, reason, remedy):
    (row,) = [r for r in diagnosis[0] if r.get("package") == name]
    assert row["status"] == "failed"
    assert reason in row["reason"]
    assert remedy in row["remedy"]


def test_the_doctor_ends_what_a_hanging_plugin_has_started(diagnosis):
    child = (diagnosis[1] / "rude_hangs.pid").read_text()
    state = Path("/proc") / child / "stat"
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


def test_the_doctor_knows_the_machine_and_hears_every_package(diagnosis):
    rows, _ = diagnosis
    facts = {row["what"]: row["value"] for row in rows if "what" in row}
    assert {"python", "torch", "cpu", "C compiler", "sums in C", "Triton"} <= facts.keys()
    assert facts["temporary folder"].endswith(", writable")
    assert facts["pulse"] == "steady"
    assert "broken" in facts["broken"]
    assert {r["package"] for r in rows if r.get("status") == "active"} >= {"good-guest", "ode-core"}


def test_the_doctors_page_ends_with_what_to_block(capsys, monkeypatch):
    row = {"kind": "plugin", "name": "x", "version": "1.0", "records": 0, "remedy": ""}
    rows = [
        row | {"package": "dies", "status": "failed", "seconds": None, "reason": "it ended"},
        row | {"package": "raises", "status": "failed", "seconds": 0.1, "reason": "it raised"},
        row | {"package": "away", "status": "blocked", "seconds": None, "reason": "named"},
    ]
    facts = [{"what": "pulse", "value": "steady"}]
    monkeypatch.setattr("ode_core.doctor.probe", lambda sources, seconds: (rows, facts))
    assert main(["doctor"]) == 0
    out, err = capsys.readouterr()
    assert "steady" in out
    assert "it ended" in out
    assert err.startswith("set ODE_PLUGINS_BLOCK=dies:")


def test_a_reference_is_words_and_an_entry():
    made = Reference("Euler, L. and Heun, K.", 1900, "On steps", "Some Journal", doi="10.1000/x(1)")
    assert made.text == (
        "Euler, L. and Heun, K. (1900). On steps. Some Journal. https://doi.org/10.1000/x(1)"
    )
    assert made.bibtex("steps").splitlines()[:2] == [
        "@misc{steps,",
        "  author = {Euler, L. and Heun, K.},",
    ]
    with pytest.raises(ArgumentError, match="without an address"):
        Reference("A", 2000, "T", doi="https://doi.org/10.1000/x")
