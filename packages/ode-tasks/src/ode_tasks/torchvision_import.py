"""Import torchvision beside a torch that it was not compiled for, and torchmetrics after it.

The wheel of torchvision on PyPI is compiled against the CUDA build of torch. Beside a CPU build its
compiled operators do not load, and `import torchvision` dies with "operator torchvision::nms does
not exist", because it declares shapes for two operators that were never defined. torchmetrics
imports torchvision and dies in the same way. The suite uses neither operator, so on that very error
both are defined without an implementation and the import is made again. To define them first would
break a torchvision that does match, which defines them itself.

Import torchvision and torchmetrics from here:

    from ode_tasks.torchvision_import import torchmetrics
"""

from __future__ import annotations

import sys

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

try:
    import torchvision
except RuntimeError as error:
    if "operator torchvision::nms does not exist" not in str(error):
        raise
    for _name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[_name]
    # A library that is collected takes its operators with it, hence the name that keeps it.
    LIBRARY = torch.library.Library("torchvision", "FRAGMENT")
    for _schema in _SCHEMAS:
        LIBRARY.define(_schema)
    import torchvision

import torchmetrics  # noqa: E402  (it dies where torchvision was not mended before)

__all__ = ["torchmetrics", "torchvision"]
