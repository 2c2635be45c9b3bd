"""The shape of the house: who may know whom, and how large a part may grow."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ode_core

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "ode_core": set(),
    "ode_solvers": {"ode_core"},
    "ode_models": {"ode_core"},
    "ode_tasks": {"ode_core"},
}
FILES = {
    package: sorted((ROOT / "packages" / package.replace("_", "-") / "src" / package).rglob("*.py"))
    for package in PACKAGES
}
EVERY = [path for files in FILES.values() for path in files]
IDS = [str(path.relative_to(ROOT / "packages")) for path in EVERY]

# The front door takes what the contract promises.
LONG_SIGNATURES = {
    ("api.py", "solve"),
    ("steady.py", "steady_state"),
    ("tableau.py", "__init__"),
    ("adjoint.py", "odeint_adjoint"),
    ("block.py", "__init__"),
    ("fit.py", "fit"),
    # A model takes the options of a solve beside its own.
    ("anode.py", "__init__"),
    ("cnf.py", "__init__"),
    ("neural_cde.py", "__init__"),
    ("odenet.py", "__init__"),
}
# A Triton program has no objects to group its arguments in.
PROGRAMS = "programs.py"
# Modules that listing, help and planning go through.
WITHOUT_TORCH = {
    "errors", "citation", "records", "hooks", "containment", "discovery", "loading", "catalogue",
    "registry", "console", "cli", "listing", "plugin", "doctor", "probe", "folders", "sources",
    "cite",
}  # fmt: skip


def tree(path):
    return ast.parse(path.read_text())


def name_of(path):
    package = path.parts[path.parts.index("src") + 1]
    parts = path.relative_to(next(p for p in path.parents if p.name == "src")).with_suffix("").parts
    return package, ".".join(p for p in parts if p != "__init__")


def typing_only(parsed):
    """Nodes under `if TYPE_CHECKING`, which never run."""
    return {
        id(node)
        for block in ast.walk(parsed)
        if isinstance(block, ast.If) and getattr(block.test, "id", "") == "TYPE_CHECKING"
        for statement in block.body
        for node in ast.walk(statement)
    }


def imports(path, *, running=False):
    parsed = tree(path)
    skipped = typing_only(parsed) if running else set()
    for node in ast.walk(parsed):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def functions(path):
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_all_four_packages_are_looked_at():
    assert all(len(files) > 3 for files in FILES.values())


@pytest.mark.parametrize("path", EVERY, ids=IDS)
def test_arrows_between_packages(path):
    package, _ = name_of(path)
    for module in imports(path):
        top = module.split(".")[0]
        assert top not in PACKAGES or top == package or top in PACKAGES[package], (
            f"{path.name} imports {module}: {package} may know {sorted(PACKAGES[package])} only"
        )


@pytest.mark.parametrize("package", PACKAGES)
def test_no_import_circle(package):
    known = {name_of(path)[1] for path in FILES[package]}
    edges = {}
    for path in FILES[package]:
        if path.name == "__init__.py":
            continue
        found = {module for module in imports(path, running=True) if module in known}
        edges[name_of(path)[1]] = found - {package}
    done, trail = set(), []

    def visit(module):
        if module in done:
            return
        assert module not in trail, f"import circle: {' -> '.join([*trail, module])}"
        trail.append(module)
        for other in edges.get(module, ()):
            visit(other)
        trail.pop()
        done.add(module)

    for module in edges:
        visit(module)


@pytest.mark.parametrize("path", EVERY, ids=IDS)
def test_nothing_is_imported_inside_a_function(path):
    for function in functions(path):
        inner = [n for n in ast.walk(function) if isinstance(n, ast.Import | ast.ImportFrom)]
        assert not inner, f"{path.name}:{inner[0].lineno if inner else ''} imports in a function"


@pytest.mark.parametrize("path", EVERY, ids=IDS)
def test_sizes(path):
    assert path.read_text().count("\n") <= 300, "a file holds one thing, in 300 lines at most"
    for function in functions(path):
        # A docstring that lists every argument is no burden on the reader of the code.
        start = function.body[0]
        documented = isinstance(start, ast.Expr) and isinstance(start.value, ast.Constant)
        doc = start.end_lineno - start.lineno + 1 if documented else 0
        length = function.end_lineno - function.lineno + 1 - doc
        assert length <= 60, f"{function.name} has {length} lines; a function fits a screen"
        arguments = function.args
        count = len(arguments.posonlyargs + arguments.args + arguments.kwonlyargs)
        own = arguments.args[:1] and arguments.args[0].arg in ("self", "cls", "ctx")
        if (path.name, function.name) in LONG_SIGNATURES or path.name.endswith(PROGRAMS):
            continue
        if not typer_command(function):
            assert count - bool(own) <= 9, f"{function.name} takes {count} parameters, 9 at most"


def typer_command(function):
    """A command's parameters are its options; the command line has as many as users need."""
    first = function.args.args[:1]
    return bool(first) and first[0].arg == "ctx" and "typer" in ast.dump(function)


@pytest.mark.parametrize("path", EVERY, ids=IDS)
def test_habits(path):
    parsed = tree(path)
    for node in ast.walk(parsed):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{path.name}:{node.lineno} catches everything"
        if isinstance(node, ast.ImportFrom):
            assert node.names[0].name != "*", f"{path.name}:{node.lineno} imports a star"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"{path.name}:{node.lineno} prints"


@pytest.mark.parametrize("path", EVERY, ids=IDS)
def test_every_warning_has_a_category_of_the_suite(path):
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "warnings.warn":
            words = [ast.unparse(argument) for argument in node.args[1:]]
            words += [ast.unparse(k.value) for k in node.keywords if k.arg == "category"]
            assert words, f"{path.name}:{node.lineno} warns without a category"
            assert issubclass(getattr(ode_core, words[0]), ode_core.OdeWarning)


def test_core_knows_no_solver_but_the_default():
    """A stranger's plugin is the equal of a built-in: names of solvers stand in one place."""
    names = {"euler", "rk4", "tsit5", "dopri8", "bosh3", "adjoint", "checkpoint"}
    for path in FILES["ode_core"]:
        strings = {n.value for n in ast.walk(tree(path)) if isinstance(n, ast.Constant)
                   and isinstance(n.value, str)}  # fmt: skip
        assert not names & strings, f"{path.name} names {names & strings}"


@pytest.mark.parametrize(
    "path", [p for p in EVERY if p.stem in WITHOUT_TORCH], ids=lambda p: p.stem
)
def test_the_modules_behind_listing_do_not_import_torch(path):
    heavy = {"torch", "pandas", "matplotlib", "sklearn", "torchvision", "triton", "numpy"}
    assert not heavy & {module.split(".")[0] for module in imports(path, running=True)}


def test_importing_does_no_discovery():
    code = (
        "import ode_core.discovery\n"
        "def never():\n"
        "    raise AssertionError('discovery at import')\n"
        "ode_core.discovery.find = never\n"
        "import ode_core.api, ode_core.cli, ode_solvers.methods, ode_models, ode_tasks\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


SUPPRESSION = re.compile(r"#\s*(?:type: ignore|noqa|pyright: ignore|pragma: no cover)")
WITH_REASON = re.compile(r"#\s*(?:type: ignore\[[\w-]+\]|noqa: \w+)\s+(?:#|-|\()\s*\w.+")


def test_suppressions_are_few_and_have_reasons():
    lines = [
        f"{path.name}: {line.strip()}"
        for path in EVERY
        for line in path.read_text().splitlines()
        if SUPPRESSION.search(line)
    ]
    assert len(lines) <= 20, f"{len(lines)} suppressions"
    assert [line for line in lines if not WITH_REASON.search(line)] == []


def test_what_is_no_suppression_with_a_reason_is_told_apart():
    assert WITH_REASON.search("x()  # type: ignore[arg-type]  # it takes any")
    assert WITH_REASON.search("x()  # noqa: BLE001 - whatever a guest raises")
    assert not WITH_REASON.search("x()  # type: ignore[arg-type]")
    assert not WITH_REASON.search("x()  # type: ignore  # anything")
    assert not WITH_REASON.search("x()  # noqa - all of it")
