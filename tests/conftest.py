"""Toy models whose every quantity is known, and small helpers, as fixtures."""

from __future__ import annotations

import gc
import os
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from command_line import TINY, call_main, start_process
from torch import nn

from sa_bench.contracts import Draw
from sa_bench.core import registry
from sa_bench.models.toy import Gaussian, Row

torch.set_num_threads(1)
gc.disable()  # while the test files are imported; see pytest_collection_finish


class Noiser(nn.Module):
    """ε̂ from (x_t, t, class embedding): two small layers."""

    def __init__(self, classes):
        super().__init__()
        self.embed = nn.Embedding(classes + 1, 4)
        self.one, self.two = nn.Linear(2 + 1 + 4, 16), nn.Linear(16, 2)
        self.override = None

    def forward(self, x, t, c):
        e = self.embed(c)
        if self.override is not None:
            k, value = self.override
            e = torch.where((c == k)[:, None], value, e)
        return self.two(torch.tanh(self.one(torch.cat([x, t[:, None] / 10, e], 1))))


class ToyDiffusion(Gaussian):
    """A diffusion model of 2-d points with T = 10 steps; condition `classes` is null."""

    family = "toy_diffusion"

    def __init__(self, classes=3):
        torch.manual_seed(0)
        self.net = Noiser(classes)
        self.null, self.timesteps = classes, 10
        self.alpha = torch.linspace(0.98, 0.1, 10)  # cumulative

    def draw(self, n, rng, t=None):
        noise = torch.randn(n, 2, generator=rng)
        return Draw(noise, torch.randint(10, (n,), generator=rng) if t is None else t)

    def add_noise(self, x, draw):
        a = self.alpha[draw.t][:, None]
        return a.sqrt() * x + (1 - a).sqrt() * draw.noise

    def predict(self, x_t, t, c):
        return self.net(x_t, t, c)

    def loss(self, x, c, draw):
        return ((self.predict(self.add_noise(x, draw), draw.t, c) - draw.noise) ** 2).sum(1)

    def _step(self, x, t, eps):
        a, b = self.alpha[t], self.alpha[t - 1] if t else torch.tensor(1.0)
        x0 = (x - (1 - a).sqrt() * eps) / a.sqrt()
        return b.sqrt() * x0 + (1 - b).sqrt() * eps

    def dropout_seed(self, rng):
        return None

    def with_dropout(self, seed):
        return nullcontext()

    def levels(self, sampler):
        return list(range(9, -1, -1))

    @torch.no_grad()
    def sample_until(self, c, k, rng, sampler):
        x = torch.randn(len(c), 2, generator=rng)
        for t in range(9, 9 - k, -1):
            times = torch.full((len(c),), t)
            eps, free = (
                self.predict(x, times, c),
                self.predict(x, times, torch.full_like(c, self.null)),
            )
            x = self._step(x, t, free + sampler.guidance * (eps - free))
        return x

    def simulate(self, c, rng, sampler):
        return self.sample_until(c, 10, rng, sampler)

    def condition(self, c):
        slot = Row(self, c)
        slot.model = SimpleNamespace(net=self.net.embed)
        slot.substitute = lambda value: _override(self.net, c, value)
        return slot


@contextmanager
def _override(net, c, value):
    net.override = (c, value)
    try:
        yield
    finally:
        net.override = None


@pytest.fixture
def gaussian():
    return Gaussian()


@pytest.fixture
def toy_diffusion():
    return ToyDiffusion()


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def shared_store(tmp_path_factory):
    """One store for the tests that need MNIST or finished stages, also of pytest-xdist's workers together."""
    if given := os.environ.get("SA_BENCH_TEST_STORE"):
        return Path(given)
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return tmp_path_factory.mktemp("store")
    store = tmp_path_factory.getbasetemp().parent / "store"
    store.mkdir(exist_ok=True)
    return store


@pytest.fixture
def store_env(shared_store, monkeypatch):
    """The same store for code called in this process."""

    monkeypatch.setenv("SA_BENCH_STORE", str(shared_store))
    monkeypatch.delenv("SA_BENCH_DATA", raising=False)
    return shared_store


@pytest.fixture
def cli(shared_store, tmp_path):
    """Run a command line in this process, in an empty folder; returns its exit code and what it printed."""
    return _checked(call_main, shared_store, tmp_path)


@pytest.fixture
def process(shared_store, tmp_path):
    """The same as `python -m sa_bench ...`, for tests that are about processes: a second's start and more each."""
    return _checked(start_process, shared_store, tmp_path)


def _checked(run, shared_store, folder):
    def call(*arguments, store=None, env=None, check=None, cwd=folder):
        done = run(*arguments, store=store or shared_store, cwd=cwd, env=env)
        if check is not None:
            assert done.returncode == check, done.stdout + done.stderr
        return done

    return call


@pytest.fixture(autouse=True)
def forget_plug_ins():
    """Leave no plug-in registered that a test named by its path."""
    yield
    registry.forget_plug_ins()


def pytest_collection_modifyitems(items):
    """Mark what starts processes, and begin with the files that take longest.

    Those hold fixtures that a whole file shares, or start processes. With the short files last, two
    workers of pytest-xdist (`--dist loadfile`) end at the same time.
    """
    long = set()
    for item in items:
        if "process" in getattr(item, "fixturenames", ()):
            item.add_marker("process")
        if item.get_closest_marker("process") or _shares_with_file(item):
            long.add(item.path)
    items.sort(key=lambda item: item.path not in long)


def pytest_collection_finish():
    """Take what the imports made out of garbage collection, which otherwise goes through it for ever."""
    gc.freeze()
    gc.enable()


def _shares_with_file(item):
    fixtures = getattr(item, "_fixtureinfo", None)
    if fixtures is None:
        return False
    return any(
        fixture.scope == "module" for same in fixtures.name2fixturedefs.values() for fixture in same
    )


@pytest.fixture
def tiny():
    """Options that make a cell seconds long."""
    return list(TINY)
