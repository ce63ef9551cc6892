"""Which code made a result: the version, and the commit where there is one."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from sa_bench.results import provenance


@pytest.fixture(autouse=True)
def unread():
    clear = provenance._read_commit.cache_clear
    clear()
    yield
    clear()


def test_an_installation_from_a_repository_names_its_commit(monkeypatch):
    origin = json.dumps({"url": "x", "vcs_info": {"vcs": "git", "commit_id": "a" * 40}})
    installed = SimpleNamespace(read_text=lambda name: origin)
    monkeypatch.setattr(provenance.metadata, "distribution", lambda name: installed)
    assert provenance._read_commit() == "a" * 40


@pytest.mark.parametrize(
    ("status", "expected"), [("", "b" * 40), (" M x.py\n", "b" * 40 + " + changes")]
)
def test_a_checkout_names_its_commit_and_whether_it_was_changed(monkeypatch, status, expected):
    def answer(command, **options):
        text = status if "status" in command else "b" * 40 + "\n"
        return subprocess.CompletedProcess(command, 0, stdout=text)

    monkeypatch.setattr(
        provenance.metadata, "distribution", lambda name: SimpleNamespace(read_text=lambda n: None)
    )
    monkeypatch.setattr(provenance.Path, "exists", lambda path: True)
    monkeypatch.setattr(provenance.subprocess, "run", answer)
    assert provenance._read_commit() == expected


def test_no_commit_is_named_without_git(monkeypatch):
    def refuse(command, **options):
        raise FileNotFoundError("git")

    monkeypatch.setattr(
        provenance.metadata, "distribution", lambda name: SimpleNamespace(read_text=lambda n: None)
    )
    monkeypatch.setattr(provenance.subprocess, "run", refuse)
    assert provenance._read_commit() == ""


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (
            ["/env/bin/sa_bench", "run", "--out", "x", "--task", "mnist_0"],
            "python -m sa_bench run --task mnist_0",
        ),
        (["/env/sa_bench/__main__.py", "list"], "python -m sa_bench list"),
        (["study.py", "--fast"], "python study.py --fast"),
        (["/env/ipykernel_launcher.py", "-f", "/root/k.json"], ""),
        ([""], ""),
    ],
)
def test_the_command_that_repeats_a_run_is_the_one_that_was_typed(argv, expected, monkeypatch):
    """From a notebook it was `python -m sa_bench -f /root/k.json`."""
    monkeypatch.setattr(sys, "argv", argv)
    assert provenance.command_line() == expected


def test_results_name_the_commit_where_there_is_one(monkeypatch):
    monkeypatch.setattr(provenance, "_read_commit", lambda: "c" * 40)
    assert provenance.provenance("run", {}).get("commit") == "c" * 40
    monkeypatch.setattr(provenance, "_read_commit", lambda: "")
    assert "commit" not in provenance.provenance("run", {})
