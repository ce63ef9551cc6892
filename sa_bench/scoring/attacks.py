"""Share what attacks are made of: asking for c_f, judging the answers, fitting tensors by Adam.

The images of an attack are those of the set `forget` with which recovery asks too, so that every
attack on every model starts from the same noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from sa_bench.contracts import Generator, Measured, Prompted, Request, Sampler, View
from sa_bench.core.errors import NotFinite
from sa_bench.scoring.judges import majority_vote
from sa_bench.scoring.sampling import number_prompts, pick_rows, to_finite_images
from sa_bench.statistics.clustered import wilson


@dataclass(frozen=True)
class Questions:
    """Requests for a concept, and how the answers are judged."""

    view: View
    requests: Sequence[Request]
    prompts: np.ndarray | None
    """Number of each request's prompt, (N,) int64; None without prompts."""
    concept: int
    """The class that is asked for."""

    @classmethod
    def of(cls, view: View) -> Questions:
        """Take the task's first `recovery_judged` requests for c_f."""
        rows = pick_rows(view.task, "forget", view.task.recovery_judged)
        return cls(view, [row.request for row in rows], number_prompts(rows), view.task.concept)

    def draw(self, model: Generator, sampler: Sampler | None = None) -> np.ndarray:
        """Draw the answers of `model`, uint8 (N, H, W, C); `sampler` replaces the task's.

        An image with a value that is not finite is black, so that it shows nothing. Of an attack that may only ask, a
        filter of the method acts on the images.

        Raises:
            NotFinite: no image is finite.
        """
        samples = model.sample(self.requests, sampler or self.view.task.sampler)
        images = keep_finite(*to_finite_images(model, samples))
        return self.view.show(images, self.concept) if model is self.view.model else images

    def first(self, n: int) -> Questions:
        """Take the first `n` requests."""
        prompts = None if self.prompts is None else self.prompts[:n]
        return replace(self, requests=self.requests[:n], prompts=prompts)

    def judge(self, images: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Tell for each image whether the panel's majority names the concept.

        Returns:
            (N,) float64 of 0/1, and the same of each judge by name.
        """
        return majority_vote(self.view.judges, images, self.concept)

    def rate(self, scores: np.ndarray, votes: Mapping[str, np.ndarray], looks: int = 1) -> Rate:
        """Compute the mean of `scores` (N,) in [0, 1] with an interval widened for `looks`."""
        low, high, how = wilson(scores, self.prompts, looks)
        return Rate(float(scores.mean()), low, high, how, scores, votes)

    def measured(self, rate: Rate, extra: Mapping[str, Any]) -> Measured:
        """Make the measurement of a rate."""
        seeds = np.array([request.seed for request in self.requests], np.int64)
        columns = {} if self.prompts is None else {"prompt": self.prompts}
        return Measured(
            rate.value,
            rate.low,
            rate.high,
            rate.how,
            len(rate.scores),
            scores={"seed": seeds, **columns, "score": rate.scores, **rate.votes},
            judges=[{"judge": n, "value": float(v.mean())} for n, v in rate.votes.items()],
            extra=extra,
        )


class Rate(NamedTuple):
    """Rate of c_f in the answers of a model."""

    value: float
    low: float
    high: float
    how: str
    """How the interval was computed."""
    scores: np.ndarray
    """(N,) in [0, 1]."""
    votes: Mapping[str, np.ndarray]
    """Scores of each judge, (N,), by name."""

    def plain(self) -> dict[str, Any]:
        """Give value, interval and n as JSON-ready values."""
        values = {"value": self.value, "low": self.low, "high": self.high}
        return values | {"n": len(self.scores)}


def keep_finite(images: np.ndarray, finite: np.ndarray) -> np.ndarray:
    """Blacken the images (N, H, W, C) that are not `finite`, (N,) bool.

    Raises:
        NotFinite: none is finite. A model that draws nothing has not forgotten.
    """
    if len(finite) and not finite.any():
        raise NotFinite(f"none of the {len(images)} images is finite (NaN or infinite values)")
    return np.where(finite[:, None, None, None], images, np.uint8(0))


def measure_worst(
    questions: Questions, answers: Mapping[str, Callable[[], np.ndarray]]
) -> Measured:
    """Measure the highest rate of c_f over several ways to ask a model for it.

    The interval is widened for the number of ways (Bonferroni).

    Args:
        questions: what is asked, and how it is judged.
        answers: function that draws the images of each way, by name; a way whose images are none
            finite is left out.

    Returns:
        The worst, with the `rates` of all and the name of the worst (`way`) in `extra`.

    Raises:
        NotFinite: no way gives a finite image.
    """
    judged, broken = {}, None
    for name, draw in answers.items():
        try:
            judged[name] = questions.judge(draw())
        except NotFinite as error:
            broken = error
    if not judged and broken is not None:
        raise broken
    rates = {n: questions.rate(*votes, looks=len(judged)) for n, votes in judged.items()}
    worst = max(rates, key=lambda name: rates[name].value)
    extra = {"rates": {name: rate.plain() for name, rate in rates.items()}, "way": worst}
    return questions.measured(rates[worst], extra)


def copy_for_attack(view: View) -> Generator:
    """Copy the model for an attack on its weights.

    Where the task samples from averaged weights, the copy has them as its weights.
    """
    model = view.model.clone()
    averages = model.averages() if view.task.sampler.ema else None
    if averages is not None:
        with torch.no_grad():
            for name, parameter in model.parameters().items():
                parameter.copy_(averages[name])
    return model


def sampler_of_weights(view: View) -> Sampler:
    """Give the task's sampler, but of the weights themselves rather than their averages."""
    return replace(view.task.sampler, ema=False)


def all_parameters(model: Generator) -> dict[str, torch.nn.Parameter]:
    """List every parameter that forgetting may have changed, by name: of U-Net and text encoder."""
    return model.parameters("joint" if isinstance(model, Prompted) else "full")


def descend(
    tensors: Sequence[Tensor],
    loss: Callable[[], Tensor],
    rates: Sequence[float],
    budgets: Sequence[int],
) -> Iterator[int]:
    """Minimise `loss()` over `tensors` by Adam, and yield at each number of steps in `budgets`.

    Args:
        tensors: leaves that require gradients; they are changed in place.
        loss: a scalar, computed anew at each step.
        rates: Adam's learning rate of each tensor.
        budgets: ascending; 0 yields before the first step.
    """
    groups = [{"params": [t], "lr": rate} for t, rate in zip(tensors, rates, strict=True)]
    optimiser = torch.optim.Adam(groups)
    for step in range(max(budgets) + 1):
        if step in budgets:
            yield step
        if step == max(budgets):
            return  # the result of a further step would not be read
        gradients = torch.autograd.grad(loss(), tensors, allow_unused=True)
        for tensor, gradient in zip(tensors, gradients, strict=True):
            tensor.grad = gradient
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)


def batches(
    model: Generator, x: Tensor, conditions: Any, n: int, rng: torch.Generator
) -> Callable[[], Tensor]:
    """Make a function that computes the mean loss of a random batch.

    Args:
        model: the model whose loss it is.
        x: images in model space, (N, ...).
        conditions: of `x`, as `model.conditions` makes them.
        n: images a batch, with replacement; all of `x` in order if it has no more.
        rng: the only source of randomness.
    """

    def loss() -> Tensor:
        if n >= len(x):
            return model.loss(x, conditions, model.draw(len(x), rng)).mean()
        rows = torch.randint(len(x), (n,), generator=rng)
        return model.loss(x[rows], conditions[rows], model.draw(n, rng)).mean()

    return loss


def area_under(steps: Sequence[int], scores: Sequence[np.ndarray]) -> np.ndarray:
    """Compute each image's share of the steps at which it showed c_f, (N,) in [0, 1].

    It is the area under the image's curve, by the trapezoidal rule, over that of a curve at 1.
    """
    if len(steps) == 1:
        return scores[0]
    return np.trapezoid(np.stack(scores), np.array(steps, float), axis=0) / (steps[-1] - steps[0])


def first_crossing(steps: Sequence[int], values: Sequence[float], level: float) -> float | None:
    """Interpolate the step at which a curve first reaches `level`; None if it never does."""
    if values[0] >= level:
        return float(steps[0])
    for i in range(1, len(steps)):
        if values[i] >= level:
            share = (level - values[i - 1]) / (values[i] - values[i - 1])
            return steps[i - 1] + share * (steps[i] - steps[i - 1])
    return None


class LowRank(nn.Module):
    """Adds B A to a weight, seen as a matrix; B begins at 0 (Hu et al. 2022)."""

    def __init__(self, weight: Tensor, rank: int, rng: torch.Generator) -> None:
        """Draw A from `rng`, with variance 1 / inputs."""
        super().__init__()
        outputs, inputs = weight.flatten(1).shape
        a = torch.randn(rank, inputs, generator=rng) / inputs**0.5
        self.a = nn.Parameter(a.to(weight))
        self.b = nn.Parameter(torch.zeros(outputs, rank).to(weight))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the changed weight, in its own shape."""
        return weight + (self.b @ self.a).view_as(weight)
