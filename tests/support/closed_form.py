"""A small model with a closed form, on fixed batches: what a method computes in one step can be written out by hand.

ε̂(x, t, c) = w · x + e_c · (1 + t / 10), so that each gradient can be written down.
"""

from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import nn

from sa_bench.contracts import Draw
from sa_bench.core import registry

ALPHA = torch.tensor([0.9, 0.7, 0.4, 0.1])  # cumulative
N = 4  # images a batch
X = torch.tensor([[0.5, -1.0], [2.0, 0.3], [-0.7, 1.1], [0.2, 0.9]])
X_R = torch.tensor([[1.2, 0.1], [-0.4, 0.6], [0.8, -0.9], [-1.5, 0.2]])
NOISE = torch.tensor([[0.3, 0.4], [-1.2, 0.8], [0.1, -0.6], [0.9, -0.2]])
NOISE_R = torch.tensor([[-0.5, 0.2], [0.7, -0.3], [1.1, 0.4], [-0.8, 0.6]])
T, T_R = torch.tensor([0, 1, 2, 3]), torch.tensor([3, 2, 1, 0])
FORGET, ANCHOR, KEPT, NULL = 0, 1, 2, 3  # conditions


class Linear(nn.Module):
    """w (2,) and one e_c (2,) a condition."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.6, -0.4]))
        self.e = nn.Parameter(torch.tensor([[0.5, 0.1], [-0.3, 0.8], [0.9, -0.7], [0.2, 0.4]]))


class Small:
    """The closed form behind the Diffusion contract."""

    family, range, shape, null, timesteps, words = (
        "small",
        (-1, 1),
        (2,),
        NULL,
        4,
        ("zero", "one", "two"),
    )
    reworded = defence = None
    uninformed = 2.0  # E‖ε‖² of two values

    def __init__(self, reduction="sum"):
        self.net, self.reduction, self.drawn = Linear(), reduction, 0

    def clone(self):
        other = Small(self.reduction)
        other.net.load_state_dict(self.net.state_dict())
        return other

    def parameters(self, scope="full"):
        return dict(self.net.named_parameters())

    def averages(self):
        return None

    def conditions(self, values):
        return torch.tensor([self.words.index(v) if isinstance(v, str) else int(v) for v in values])

    def draw(self, n, rng, t=None):
        self.drawn += 1  # in turn: of the images to forget, and of those to keep
        return Draw(NOISE, T) if self.drawn % 2 else Draw(NOISE_R, T_R)

    def add_noise(self, x, draw):
        return noisy(x, draw.noise, draw.t)

    def predict(self, x_t, t, c, sampler=None):
        return eps(self.net.w, self.net.e, x_t, t, c)

    def loss(self, x, c, draw, sampler=None):
        error = (self.predict(self.add_noise(x, draw), draw.t, c) - draw.noise) ** 2
        return error.sum(1) if self.reduction == "sum" else error.mean(1)

    def dropout_seed(self, rng):
        return None

    def with_dropout(self, seed):
        return nullcontext()

    def levels(self, sampler):
        return [3, 2, 1, 0]

    def sample_until(self, c, k, rng, sampler):
        return X[: len(c)]


def noisy(x, noise, t):
    return ALPHA[t].sqrt()[:, None] * x + (1 - ALPHA[t]).sqrt()[:, None] * noise


def eps(w, e, x_t, t, c):
    return w * x_t + e[c] * (1 + t / 10)[:, None]


class Always:
    """The same batch each time."""

    def __init__(self, x, c):
        self.x, self.c = x, torch.tensor(c)

    def batch(self, n, rng):
        return self.x[:n], self.c[:n]


class OneStep:
    """A run that hands out fixed batches, takes a method's loss once, and moves nothing."""

    def __init__(self, model, F=None):
        self.model, self.F, self.rng = model, F, torch.Generator().manual_seed(0)
        self.gradients, self.recipe, self.value = {}, None, None

    concept_samples = surrogate = lambda self: Always(X, [FORGET] * N)
    replay = lambda self: Always(X_R, [KEPT] * N)  # noqa: E731

    def fisher(self, options):
        return self.F

    def train(self, model, loss, recipe, scope="full", pull=None, stop=None):
        model.drawn, self.recipe = 0, recipe
        self.value = loss()
        self.value.backward()
        if pull is not None:
            pull.add_to_gradients()
        self.gradients = {n: p.grad.clone() for n, p in model.parameters(scope).items()}


def small_task():
    """Three classes, the first of which is to be forgotten; the second is its anchor."""
    made = registry.get_task("mnist_0_ddpm")
    return replace(
        made, classes=("zero", "one", "two"), surrogate="class:1", concept=FORGET, prompts=None
    )


def run_once(name, model, task, moved=None, **values):
    """What `name` does in one step, from θ* or from weights that have moved by `moved` since."""
    run = OneStep(model, values.pop("F", None))
    if moved is not None:
        train = run.train

        def later(model, *args, **further):
            with torch.no_grad():
                for n, p in model.parameters().items():
                    p += moved[n]
            train(model, *args, **further)

        run.train = later
    registry.get_method(name)(batch=N, **values).forget(model, task, run)
    return run


def by_hand(loss, w=None, e=None):
    """The gradients of loss(w, e) where the network begins, or at the weights given."""
    own = Linear()
    w = (own.w if w is None else w).detach().clone().requires_grad_()
    e = (own.e if e is None else e).detach().clone().requires_grad_()
    value = loss(w, e)
    value.backward()
    return value.detach(), {"w": w.grad, "e": e.grad}


def assert_same(run, wanted):
    value, gradients = wanted
    torch.testing.assert_close(run.value.detach(), value, rtol=1e-5, atol=1e-6)
    for name, g in gradients.items():
        torch.testing.assert_close(run.gradients[name], g, rtol=1e-5, atol=1e-6)
