"""timm, also where torchvision cannot be imported. The only file that imports it."""

import importlib
import sys
from types import ModuleType

import torch

_OPERATORS = torch.library.Library("torchvision", "FRAGMENT")  # lives as long as its declarations must


def load_timm() -> ModuleType:
    """The module timm.

    timm imports torchvision, and torchvision's CUDA build beside a CPU-only torch fails for two missing operators that
    nothing here calls. Declaring them lets the import pass; where torchvision works nothing is declared.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]  # half imported
        for operator in ("nms", "qnms"):
            _OPERATORS.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return importlib.import_module("timm")
