"""What the official 2023 evaluation of Selective Amnesia did to images and names, for its ledger alone.

Its PNGs (generated and reference) were written with each image's contrast stretched to its full range, were
read in BGR order, and its evaluator was given (generated, real) where it expects (real, generated), so that
what Table 1 prints as precision is recall and the other way round: docs/precision-recall.md.
Source: ddpm/runners/diffusion.py, ddpm/save_base_dataset.py, ddpm/evaluator.py and ddpm/README.md of the
official code.
"""

from __future__ import annotations

import numpy as np
import torch

PROTOCOL = {"protocol": "official-2023", "channels": "bgr", "stretch": True, "order": "table-1"}


def as_published(images: np.ndarray, chunk: int = 1000) -> np.ndarray:
    """uint8 (N, H, W, C), each image stretched to 0..255 as torchvision's save_image does, in BGR order.

    The official code stretched floats and then rounded; here the images are 8-bit already, so that the stretch
    widens their rounding.
    """
    out = np.empty_like(images)
    for start in range(0, len(images), chunk):
        x = torch.from_numpy(images[start : start + chunk]).float() / 255
        low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
        x = (x - low) / (high - low).clamp(min=1e-5)
        out[start : start + chunk] = (x * 255 + 0.5).clamp(0, 255).to(torch.uint8).flip(3).numpy()
    return out
