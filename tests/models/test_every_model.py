"""What holds for every registered model of this package, whatever it is for."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys

import pytest
import torch

import ode_core
from tests.problems import FOR_MANY, solved_for

OPTIONS = {
    "classification": {"channels": 1, "classes": 3, "width": 8},
    "forecasting": {"horizons": (0.5, 1.0), "width": 8},
    "dynamics": {"dim": 2, "width": 8},
    "series": {"channels": 2, "classes": 3, "width": 8},
    "points": {"dim": 2, "classes": 3, "width": 8},
    "density": {"dim": 2, "width": 8},
}
RECORDS = [r for r in ode_core.models.values() if r.package == "ode-models"]
NAMES = [r.name for r in RECORDS]


def make(record, gradient="direct"):
    torch.manual_seed(0)
    solve = solved_for(gradient) | {"gradient": gradient} if record.solves else {}
    model = ode_core.models.create(record.name, **OPTIONS[record.fits], **solve)
    # A new forecaster's network says nothing yet, and nothing would reach what lies before it.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def answer(model, record):
    generator = torch.Generator().manual_seed(1)
    if record.fits == "classification":
        return model(torch.randn(2, 1, 8, 8, generator=generator))
    if record.fits == "dynamics":
        return model(torch.randn(2, 2, generator=generator), torch.tensor([0.0, 0.5, 1.0]))
    if record.fits in ("points", "density"):
        return model(torch.randn(3, 2, generator=generator))
    if record.fits == "series":
        series = torch.randn(2, 6, 2, generator=generator)
        series[0, 2, 1] = torch.nan
        return model(torch.linspace(0, 1, 6).expand(2, 6), series)
    values = torch.randn(2, 6, generator=generator)
    forecast = model(torch.linspace(-2, 0, 6).expand(2, 6), values, torch.ones(2, 6) > 0)
    return torch.cat((forecast.mean, forecast.std, forecast.penalty.expand(2, 1)), 1)


def test_the_registry_yields_every_model_of_the_study():
    wanted = {"odenet", "resnet", "no_block", "gru", "latent_ode", "neural_ode"}
    assert wanted <= set(NAMES)


@pytest.mark.parametrize("record", RECORDS, ids=NAMES)
def test_copies_pickles_and_saved_weights_answer_alike(record):
    model = make(record)
    expected = answer(model, record)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(answer(other, record), expected)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    fresh = make(record)
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.add_(1.0)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(answer(fresh, record), expected)


@pytest.mark.parametrize("gradient", FOR_MANY)
@pytest.mark.parametrize("record", RECORDS, ids=NAMES)
def test_a_gradient_that_is_not_zero_reaches_every_parameter(record, gradient):
    model = make(record, gradient).train()
    out = answer(model, record)
    (out * torch.randn_like(out)).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().sum()) > 0.0, name


@pytest.mark.parametrize("record", RECORDS, ids=NAMES)
def test_it_works_in_double_precision(record):
    model = make(record).double()
    single = [x.dtype for x in (answer(make(record), record),)]
    assert single == [torch.float32]
    if record.fits == "classification":
        assert model(torch.randn(2, 1, 8, 8).double()).dtype == torch.float64
    elif record.fits == "dynamics":
        assert model(torch.randn(2, 2).double(), torch.tensor([0.0, 1.0])).dtype == torch.float64
    elif record.fits in ("points", "density"):
        assert model(torch.randn(3, 2).double()).dtype == torch.float64
    elif record.fits == "series":
        series = torch.randn(2, 6, 2).double()
        assert model(torch.linspace(0, 1, 6).expand(2, 6), series).dtype == torch.float64
    else:
        times = torch.linspace(-2, 0, 6).expand(2, 6)
        forecast = model(times, torch.randn(2, 6).double(), torch.ones(2, 6) > 0)
        assert {part.dtype for part in forecast} == {torch.float64}


@pytest.mark.parametrize("record", RECORDS, ids=NAMES)
def test_blocks_are_found_by_their_stats_where_the_record_says_that_it_solves(record):
    model = make(record)
    answer(model, record)
    blocks = [m for m in model.modules() if isinstance(getattr(m, "stats", None), ode_core.Stats)]
    assert bool(blocks) is record.solves
    for block in blocks:
        assert block.stats.f_calls > 0
        assert callable(block.field)
        assert all(isinstance(time, float) for time in block.t)


def test_listing_them_does_not_import_torch():
    code = (
        "import sys, ode_core\n"
        "assert len(list(ode_core.models)) >= 6\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
