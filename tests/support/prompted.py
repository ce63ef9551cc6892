"""A tiny text-to-image model on which the text matters, and a run that takes a method's loss once."""

import torch

from sa_bench.commands.check import toy
from sa_bench.contracts import Prompted
from sa_bench.models.toy import ToyRun


@torch.no_grad()
def make_tiny():
    """The model, not trained but with loud cross-attention, and its task."""
    model, task = toy(Prompted)
    for name, p in model.parameters("xattn").items():
        if ".to_v." in name or ".to_out." in name:
            p *= 6
    return model, task


class FirstStep(ToyRun):
    """A run whose training computes the loss once, after `move` has changed what is trained, and moves nothing."""

    def __init__(self, star, task, seed=0, move=None):
        super().__init__(star, task, seed)
        self.move, self.losses, self.recipes, self.scopes = move, [], [], []
        self.gradients = {}

    def train(self, model, loss, recipe, scope="full", pull=None, stop=None):
        params = model.parameters(scope)
        if self.move is not None:
            with torch.no_grad():
                self.move(params)
        self.recipes += [recipe]
        self.scopes += [scope]
        value = loss()
        self.losses += [value.detach()]
        trained = {name: p for name, p in params.items() if p.requires_grad}
        grads = torch.autograd.grad(value, list(trained.values()), allow_unused=True)
        self.gradients = dict(zip(trained, grads, strict=True))


def draw_like(model, source, n, rng):
    """A batch and its noise, drawn in a method's order: (x_t, t, c)."""
    x, c = source.batch(n, rng)
    draw = model.draw(n, rng)
    return model.add_noise(x, draw), draw.t, c
