"""Every solver, gradient method, model and task of the suite says where it comes from."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import pytest

import ode_core
from ode_core import SolverRecord
from ode_core.cli import main
from ode_core.registry import REGISTRY

OWN = [
    record
    for catalogue in (ode_core.solvers, ode_core.gradients, ode_core.models, ode_core.tasks)
    for record in catalogue.values()
    if record.package.startswith("ode-")
]
# What others are held against, made here; nobody has published them.
CONTROLS = {"no_block", "latent_still"}


@pytest.mark.parametrize("record", OWN, ids=lambda record: f"{record.kind}-{record.name}")
def test_everything_of_the_suite_has_a_source(record):
    if record.name in CONTROLS:
        assert record.source is None
        return
    assert record.source is not None
    assert str(record.source.year) in record.source.text
    assert record.source.bibtex(record.name).startswith(f"@misc{{{record.name},")


def test_most_can_be_looked_up():
    assert sum(bool(r.source and r.source.link) for r in OWN) >= 0.8 * len(OWN)


def test_cite_in_words(capsys):
    assert main(["cite", "dopri5", "adjoint"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("solver dopri5: Dormand, John R. and Prince, Peter J. (1980). A family")
    assert first.endswith("https://doi.org/10.1016/0771-050X(80)90013-3")
    assert second.endswith("https://arxiv.org/abs/1806.07366")


def test_a_model_and_a_task_are_cited_as_well(capsys):
    assert main(["cite", "ode_rnn", "digits"]) == 0
    model, task = capsys.readouterr().out.splitlines()
    assert model.startswith("model ode_rnn: Rubanova, Yulia, Chen, Ricky T. Q. and Duvenaud, David")
    assert task.endswith("https://doi.org/10.24432/C50P49")


def test_cite_for_bibtex_and_for_programs(capsys):
    assert main(["cite", "bosh3", "--bibtex"]) == 0
    assert "  doi = {10.1016/0893-9659(89)90079-7},\n" in capsys.readouterr().out
    assert main(["cite", "bosh3", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["link"] == "https://doi.org/10.1016/0893-9659(89)90079-7"


def test_what_cannot_be_cited_says_so(capsys):
    assert main(["cite", "dopri6"]) == 2
    assert "did you mean 'dopri" in capsys.readouterr().err
    ode_core.register(SolverRecord("unsung", "math:sqrt", "s", order=1, adaptive=False))
    assert main(["cite", "unsung"]) == 0
    REGISTRY.remove("solver", "unsung")
    assert "names no publication" in capsys.readouterr().err


def test_the_citation_file_has_the_version_of_the_packages():
    text = (Path(__file__).parents[2] / "CITATION.cff").read_text()
    assert f"\nversion: {metadata.version('ode-core')}\n" in text
