"""One broken plugin costs only itself, names have owners, and listing never imports torch."""

from __future__ import annotations

import subprocess
import sys
import types
import warnings

import pytest

from ode_core import ArgumentError, PluginError, SolverRecord, UnknownNameError, discovery, hookimpl
from ode_core import registry as registry_module
from ode_core.registry import Catalogue, PluginWarning, Registry

CONTRACT = {
    "solver": "euler midpoint heun ralston rk4 rk4_38 bosh3 dopri5 tsit5 dopri8 adaptive_heun",
    "gradient": "direct adjoint checkpoint",
    "model": "odenet resnet gru latent_ode",
    "task": "cifar10 digits glucose linear spiral",
}


def module_with(*records, hook="ode_solvers"):
    def implementation():
        yield from records

    module = types.ModuleType("guest")
    setattr(module, hook, hookimpl(implementation))
    return module


def record(name="mine", target="math:sqrt", **options):
    return SolverRecord(name, target, "a solver", order=1, adaptive=False, **options)


def raising(error):
    def load():
        raise error

    return load


@pytest.fixture
def registry(monkeypatch):
    """A registry over made-up plugins: call it with package → module or loader."""

    def make(**guests):
        sources = []
        for name, guest in guests.items():
            load = guest if callable(guest) else (lambda guest=guest: guest)
            package = name.replace("_", "-")
            sources.append(discovery.Source(package, "1.0", name, f"{name}:x", load))
        monkeypatch.setattr(discovery, "find", lambda: sources)
        return Registry()

    return make


@pytest.mark.parametrize("kind", CONTRACT)
def test_the_contracts_names_are_registered(kind):
    catalogue = getattr(registry_module, f"{kind}s")
    assert set(CONTRACT[kind].split()) <= set(catalogue)
    assert all(catalogue[name].package.startswith("ode-") for name in CONTRACT[kind].split())


def test_a_plugin_that_raises_on_import_costs_only_itself(registry):
    made = registry(bad=raising(ImportError("no such thing")), good=module_with(record()))
    with pytest.warns(PluginWarning, match=r"bad 1\.0 .*ImportError: no such thing.*ODE_PLUGINS"):
        solvers = Catalogue(made, SolverRecord)
        assert list(solvers) == ["mine"]


def test_a_plugin_that_exits_costs_only_itself(registry):
    made = registry(bad=raising(SystemExit(3)), good=module_with(record()))
    with pytest.warns(PluginWarning, match=r"sys\.exit\(3\)"):
        assert [p.status for p in made.plugins] == ["failed", "active"]


def test_a_record_that_is_none_loses_the_hook_but_keeps_those_before(registry):
    made = registry(bad=module_with(record(), "rubbish"))
    with pytest.warns(PluginWarning, match=r"in part .*'rubbish', which is no record"):
        assert list(made.table("solver")) == ["mine"]
    assert made.plugins[0].status == "partial"


def test_an_unknown_hook_is_named(registry):
    made = registry(bad=module_with(record(), hook="ode_sovlers"))
    with pytest.warns(PluginWarning, match="ode_sovlers"):
        assert made.plugins[0].status == "failed"


def test_a_lost_plugins_cause_is_shown_when_a_name_is_missing(registry):
    made = registry(bad=raising(ImportError("libfoo is missing")))
    with pytest.warns(PluginWarning):
        solvers = Catalogue(made, SolverRecord)
        with pytest.raises(UnknownNameError, match="libfoo is missing"):
            solvers["mine"]


def test_names_of_the_suite_are_its_own(registry):
    own = module_with(record("dopri5"))
    made = registry(ode_solvers=own, stranger=module_with(record("dopri5", "math:cos")))
    with pytest.warns(PluginWarning, match="reachable as 'stranger:dopri5'"):
        solvers = Catalogue(made, SolverRecord)
        assert solvers["dopri5"].package == "ode-solvers"
    assert solvers["stranger:dopri5"].target == "math:cos"
    assert set(solvers) == {"dopri5", "stranger:dopri5"}


def test_two_strangers_with_one_name_are_both_reachable_by_package(registry):
    made = registry(one=module_with(record()), two=module_with(record()))
    solvers = Catalogue(made, SolverRecord)
    with pytest.raises(UnknownNameError, match="one:mine or two:mine"):
        solvers["mine"]
    assert solvers["two:mine"].package == "two"


def test_a_near_miss_offers_the_nearest_name():
    with pytest.raises(UnknownNameError, match="did you mean .*'dopri5'") as caught:
        registry_module.solvers["dopri4"]
    assert "dopri5" in caught.value.nearest


def test_without_the_solvers_package_the_error_says_how_to_get_it(registry):
    with pytest.raises(UnknownNameError, match="pip install ode-solvers"):
        Catalogue(registry(), SolverRecord)["dopri5"]


def test_provenance_is_the_hosts_to_say(registry):
    made = registry(guest=module_with(record(package="ode-solvers", version="9")))
    found = made.table("solver")["mine"]
    assert (found.package, found.version) == ("guest", "1.0")


def test_create_refuses_options_that_the_target_does_not_take():
    with pytest.raises(ArgumentError, match=r"'dopri5' cannot be made with \['kernal'\].*kernel"):
        registry_module.solvers.create("dopri5", kernal="cpu")


def test_create_names_a_missing_extra(registry):
    lacking = record(requires=(("no_such_module", "thing[extra]"),))
    solvers = Catalogue(registry(guest=module_with(lacking)), SolverRecord)
    assert solvers["mine"].missing == ("thing[extra]",)
    with pytest.raises(PluginError, match=r"pip install 'thing\[extra\]'"):
        solvers.create("mine")


def test_a_target_that_cannot_be_imported_is_named_with_its_cause(registry):
    solvers = Catalogue(registry(guest=module_with(record(target="math:nothing"))), SolverRecord)
    with pytest.raises(PluginError, match=r"math:nothing \(AttributeError"):
        solvers.create("mine")


@pytest.mark.parametrize("name", ["Dopri5", "5th", "a-b", ""])
def test_unusable_names_are_refused(name):
    with pytest.raises(ArgumentError, match="not usable"):
        record(name)


def test_register_and_remove(registry):
    made = registry()
    made.add(record())
    with pytest.raises(ArgumentError, match="overwrite=True"):
        made.add(record())
    made.add(record(target="math:cos"), overwrite=True)
    assert made.table("solver")["mine"].target == "math:cos"
    made.remove("solver", "mine")
    assert "mine" not in made.table("solver")


@pytest.mark.parametrize(
    ("variable", "value", "seen"),
    [
        ("ODE_PLUGINS_BLOCK", "one", ["two"]),
        ("ODE_PLUGINS_ALLOW", "one", ["one"]),
        ("ODE_PLUGINS_ALLOW", "", []),
    ],
)
def test_plugins_are_blocked_before_they_are_imported(registry, monkeypatch, variable, value, seen):
    monkeypatch.setenv(variable, value)
    imported = []

    def load(name):
        imported.append(name)
        return module_with(record(name))

    made = registry(one=lambda: load("one"), two=lambda: load("two"))
    assert list(made.table("solver")) == seen == imported


def test_a_file_is_a_plugin(tmp_path, monkeypatch):
    path = tmp_path / "my_solver_file.py"
    path.write_text(
        "from ode_core import SolverRecord, hookimpl\n"
        "@hookimpl\n"
        "def ode_solvers():\n"
        "    yield SolverRecord('from_file', 'my_solver_file:make', 's', order=1, adaptive=False)\n"
        "def make():\n"
        "    return 'made'\n"
    )
    monkeypatch.setenv("ODE_PLUGIN_FILES", str(path))
    solvers = Catalogue(Registry(), SolverRecord)
    assert solvers.create("from_file") == "made"
    assert solvers["from_file"].package == "my_solver_file.py"
    sys.modules.pop("my_solver_file")


def test_what_a_plugin_prints_does_not_reach_stdout(registry, capsys):
    def load():
        print("hello")
        return module_with(record())

    with pytest.warns(PluginWarning, match=r"loud 1\.0 works, but it printed 'hello'"):
        assert registry(loud=load).plugins[0].status == "active"
    out, err = capsys.readouterr()
    assert out == ""
    assert "hello" in err


def test_listing_imports_neither_torch_nor_pandas():
    code = (
        "import sys, ode_core, ode_core.hooks, ode_solvers, ode_models, ode_tasks\n"
        "from ode_core.cli import main\n"
        "assert main(['list', '--json']) == 0 and main(['--help']) == 0\n"
        "heavy = {'torch', 'pandas', 'matplotlib', 'sklearn', 'triton'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_lazy_names_are_the_ones_declared():
    import ode_core
    import ode_solvers

    for package in (ode_core, ode_solvers):
        assert sorted(package._EXPORTS) == sorted(package.__all__)
        assert all(getattr(package, name) is not None for name in package.__all__)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ode_solvers.solve is ode_core.solve


def test_a_catalogue_is_a_mapping():
    assert registry_module.solvers.get("no_such") is None
    assert "no_such" not in registry_module.solvers
    assert "dopri5" in registry_module.solvers
    assert "ode-solvers:dopri5" in registry_module.solvers
    assert len(registry_module.solvers) == len(list(registry_module.solvers))
