"""Declares the one operator that torchvision's Python code wants declared, before it is imported.

Composer imports torchvision for transforms of pictures that nothing here calls. The image holds
the release that Composer asks for, whose compiled part was built for another torch and is not
loaded; without this declaration `import torchvision` fails, and `import composer` with it. Nor is
the user to hear that pictures cannot be read.
"""

import warnings

import torch

OPERATORS = torch.library.Library("torchvision", "FRAGMENT")
"""Kept: what is declared goes with it."""
if not hasattr(torch.ops.torchvision, "nms"):
    OPERATORS.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
warnings.filterwarnings("ignore", message="Failed to load image Python extension")
