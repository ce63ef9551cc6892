"""Edit what cross-attention reads in a text: closed forms for its projections of keys and values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sa_bench.contracts import Prompted


def encode_last_token(model: Prompted, text: str) -> Tensor:
    """Encode `text` and take the state at its last token before the end, (width,) float64."""
    c = model.conditions([text])
    end = int((c[0] == c[0].max()).nonzero()[0])  # the end token has the highest number
    return model.encoded(c)[0, max(0, end - 1)].double()


@torch.no_grad()
def edit_projections(
    projections: Iterable[Tensor],
    erased: Tensor,
    guide: Tensor,
    retained: Tensor,
    erase: float,
    preserve: float,
    mu: float,
) -> None:
    """Solve every projection anew, in place, so that `erased` is read as `guide` and the rest as before.

    W ← [μ W + e Σ_f v c_fᵀ + p Σ_r (W c_r) c_rᵀ] [μ I + e Σ_f c_f c_fᵀ + p Σ_r c_r c_rᵀ]⁻¹ with v = W c_to.

    Source: Gandikota et al. 2024, Eq. 7; unified-concept-editing, trainscripts/uce_sd_erase.py.

    Args:
        projections: the matrices W, (out, width) each.
        erased: embeddings c_f, (F, width) float64.
        guide: embedding c_to, (width,) float64.
        retained: embeddings c_r, (R, width) float64; R may be 0.
        erase: weight e.
        preserve: weight p.
        mu: weight μ of W itself.
    """
    outer = erase * erased.T @ erased + preserve * retained.T @ retained
    right = mu * torch.eye(len(outer), device=outer.device, dtype=outer.dtype) + outer
    for parameter in projections:
        W = parameter.double()
        values = (W @ guide)[:, None].expand(-1, len(erased))
        retained_part = preserve * (W @ retained.T) @ retained
        left = mu * W + erase * values @ erased + retained_part
        parameter.copy_(torch.linalg.solve(right, left, left=False))


@torch.no_grad()
def find_survivor(
    edited: Iterable[Tensor], original: Iterable[Tensor], c: Tensor, weight: float
) -> Tensor:
    """Find the embedding that edited projections read as the original ones read `c`, (width,).

    c' = argmin Σ_l ‖W_l c' − W*_l c‖² + λ ‖c'‖² = [Σ_l W_lᵀ W_l + λ I]⁻¹ Σ_l W_lᵀ W*_l c.

    Source: Gong et al. 2024, Eq. 9, 10.

    Args:
        edited: the matrices W_l, (out, width) each.
        original: the matrices W*_l, in the same order.
        c: embedding (width,) float64.
        weight: λ > 0.
    """
    left = weight * torch.eye(len(c), device=c.device, dtype=c.dtype)
    right = torch.zeros_like(c)
    for after, before in zip(edited, original, strict=True):
        W, star = after.double(), before.double()
        left = left + W.T @ W
        right = right + W.T @ (star @ c)
    return torch.linalg.solve(left, right)


class Term(NamedTuple):
    """A term w Σ_i ‖V e_i − M g_i‖² of a projection's fit; one pair of embeddings (e, g) for each i."""

    weight: float  # w
    outputs: Tensor  # M (out, width)
    cross: Tensor  # Σ_i g_i e_iᵀ (width, width) float64
    gram: Tensor  # Σ_i e_i e_iᵀ (width, width) float64


@torch.no_grad()
def fit_projection(terms: Sequence[Term], W: Tensor, ridge: float) -> Tensor:
    """Fit the projection that reads embeddings as given outputs, (out, width) float64.

    argmin_V Σ_terms w Σ_i ‖V e_i − M g_i‖² + μ ‖V − W‖² = [Σ w M Σ g eᵀ + μ W] [Σ w Σ e eᵀ + μ I]⁻¹.

    Source: Lu et al. 2024, Eq. 4 and 8; the last term keeps it solvable.

    Args:
        terms: what the projection is fitted to.
        W: (out, width), which it is where the terms say nothing.
        ridge: μ > 0.
    """
    left = ridge * W.double()
    right = ridge * torch.eye(W.shape[1], device=W.device, dtype=torch.float64)
    for term in terms:
        left = left + term.weight * term.outputs.double() @ term.cross
        right = right + term.weight * term.gram
    return torch.linalg.solve(right, left, left=False)


@torch.no_grad()
def sum_squares(model: Prompted, texts: Sequence[str]) -> Tensor:
    """Compute Σ e eᵀ over the states of all tokens of all `texts`, (width, width) float64."""
    grams = []
    for start in range(0, len(texts), 64):
        states = model.encoded(model.conditions(texts[start : start + 64])).flatten(0, 1).double()
        grams.append(states.T @ states)
    return torch.stack(grams).sum(0)
