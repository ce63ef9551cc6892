"""Toy models and small helpers as fixtures.

The process that hands out the tests reads this file too, so that nothing heavy is imported at its top.
"""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

gc.disable()  # while the test files are imported; see pytest_collection_finish


@pytest.fixture
def gaussian():
    from sa_bench.models.toy import Gaussian

    return Gaussian()


@pytest.fixture
def toy_diffusion():
    from toy_diffusion import ToyDiffusion

    return ToyDiffusion()


@pytest.fixture
def rng():
    import torch

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
    from command_line import call_main

    return _checked(call_main, shared_store, tmp_path)


@pytest.fixture
def process(shared_store, tmp_path):
    """The same as `python -m sa_bench ...`, for tests that are about processes: a second's start and more each."""
    from command_line import start_process

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
    from sa_bench.core import registry

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
    """Use one thread, and take what the imports made out of garbage collection, which would go through it for ever."""
    import torch

    torch.set_num_threads(1)
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
    from command_line import TINY

    return list(TINY)
