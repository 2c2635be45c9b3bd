"""Distributions of strangers, laid out on disk as pip leaves them, good guests and rude ones."""

from __future__ import annotations

GOOD = """
from ode_core import SolverRecord, hookimpl

@hookimpl
def ode_solvers():
    yield SolverRecord({name!r}, "ode_core.direct:Direct", "a guest", order=1, adaptive=False)
"""

# What the module holds, the plugin's status, and words that its sentence must have.
RUDE = {
    "raises": ("raise RuntimeError('no licence file')", "failed",
               "RuntimeError: no licence file", "mend or uninstall"),
    "lacks": ("import no_such_dependency", "failed",
              "No module named 'no_such_dependency'", "install no_such_dependency"),
    "exits": ("import sys\nsys.exit(3)", "failed", "sys.exit(3)", "update or uninstall"),
    "interrupts": ("raise KeyboardInterrupt", "failed", "raised KeyboardInterrupt", "uninstall"),
    "newer": (GOOD + "ODE_PLUGIN_API = (9, 0)", "incompatible",
              "plugin API 9.0 and this ode-core has 1.", "pip install --upgrade ode-core"),
    "rubbish": (GOOD + "    yield 42", "partial",
                "yielded 42, which is no record", "report it to its author"),
    "misspelt": (GOOD.replace("def ode_solvers", "def ode_sovlers"), "failed",
                 "unknown hook ode_sovlers, did it mean ode_solvers?", "correct the hook's name"),
    "slow": ("import torch\n" + GOOD, "active", "slow, for it imports torch",
             "import torch behind the targets"),
    "loud": ("print('Welcome!')\n" + GOOD, "active", "printed 'Welcome!'", "print nothing"),
    "greedy": (GOOD.replace("{name!r}", "'dopri5'"), "active",
               "registers the solver 'dopri5', a name of the suite", "'rude-greedy:dopri5'"),
    "upsets": ("""
import os, signal, sys, warnings, torch
sys.path.insert(0, "/nowhere")
os.chdir("/")
os.environ["RUDE"] = "yes"
warnings.simplefilter("ignore")
signal.signal(signal.SIGINT, signal.SIG_IGN)
torch.set_default_dtype(torch.float64)
""" + GOOD, "active",
               "changed sys.path and the working folder and the environment (RUDE) and the warning "
               "filters and the signal handlers (SIGINT) and the default dtype",
               "set what it needs yourself"),
    "strays": (GOOD, "failed", "its entry point reads 'not a module'", "mend or uninstall"),
}  # fmt: skip


def install(site, name, source, entry="guest = {module}\n"):
    """Lay a distribution with one module and one entry point into a folder of the path."""
    module = name.replace("-", "_")
    (site / f"{module}.py").write_text(source.replace("{name!r}", repr(module)))
    info = site / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ode]\n" + entry.format(module=module))


def install_rude(site):
    for name, (source, *_) in RUDE.items():
        entry = "guest = not a module\n" if name == "strays" else "guest = {module}\n"
        install(site, f"rude-{name}", source, entry)
