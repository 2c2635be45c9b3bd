"""torchvision and torchmetrics can be imported whichever torch is installed."""

from __future__ import annotations

import subprocess
import sys

FAKE = """
import torch
if {condition}:
    raise RuntimeError({message!r})
# As torchvision does; raises where the operator was never defined.
torch.library.register_fake("torchvision::nms")(lambda dets, scores, threshold: dets)
loads = "whole"
"""


def python(code, path=None):
    lines = "import sys\n" + (f"sys.path.insert(0, {str(path)!r})\n" if path else "") + code
    return subprocess.run(
        [sys.executable, "-c", lines], capture_output=True, text=True, check=False, timeout=120
    )


def test_both_work_in_a_fresh_interpreter():
    done = python(
        "from ode_tasks.torchvision_import import torchmetrics, torchvision\n"
        "import torch\n"
        "print(torchvision.transforms.functional.hflip(torch.tensor([[1, 2]])).tolist())\n"
        "print(float(torchmetrics.MeanMetric()(torch.tensor([1.0, 3.0]))))\n"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["[[2, 1]]", "2.0"]


def fake(folder, condition, message):
    (folder / "torchvision").mkdir()
    text = FAKE.format(condition=condition, message=message)
    (folder / "torchvision/__init__.py").write_text(text)
    (folder / "torchmetrics.py").write_text("import torchvision\n")


def test_a_torchvision_whose_operators_are_missing_is_mended(tmp_path):
    fake(tmp_path, "False", "")
    plain = python("import torchvision", tmp_path)
    assert "operator torchvision::nms does not exist" in plain.stderr
    mended = python(
        "import gc\n"
        "from ode_tasks.torchvision_import import torchvision\n"
        "gc.collect()\n"
        "import torch\n"
        "print(torchvision.loads, torch.ops.torchvision.nms, torch.ops.torchvision.qnms)\n",
        tmp_path,
    )
    assert mended.returncode == 0, mended.stderr
    assert mended.stdout.startswith("whole torchvision.nms")


def test_a_torchvision_that_fails_otherwise_fails_with_its_own_words(tmp_path):
    fake(tmp_path, "True", "this is another trouble")
    done = python("import ode_tasks.torchvision_import", tmp_path)
    assert done.returncode != 0
    assert "this is another trouble" in done.stderr
