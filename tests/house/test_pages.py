"""Pages for readers who are new: their words are the code's, their commands can be typed, their lists are whole."""

import re
import shlex
import tomllib
from itertools import chain
from pathlib import Path

import pytest
from typer.main import get_command

from sa_bench.analysis import gates, outcomes, wording
from sa_bench.commands.app import app

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def normalise(text):
    """Join lines and drop marks of emphasis and code, so that a sentence is found however it is set."""
    return re.sub(r"[*_`]", "", " ".join(text.split()))


def test_the_concepts_page_has_the_words_of_the_code():
    text = (DOCS / "concepts.md").read_text()
    rows = "\n".join(f"| {word} | {meaning} |" for word, meaning in outcomes.WORDS.items())
    assert f"| outcome | what it means |\n|---|---|\n{rows}\n\n" in text
    assert f"at most {100 * gates.MORE:.0f} points." in text


@pytest.mark.parametrize("term", ["condition", "gate", "floor", "rank", "Pareto front"])
def test_the_glossary_says_what_reports_say(term):
    """Each entry begins with the sentence of a report's own glossary."""
    term, sentence = (
        text[0].upper() + text[1:].rstrip(".") for text in (term, wording.TERMS[term])
    )
    assert f"{term}. {sentence}" in normalise((DOCS / "glossary.md").read_text())


def test_every_dependency_is_documented():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needed = [*project["dependencies"], *chain(*(extras[e] for e in extras if e != "dev"))]
    table = (DOCS / "dependencies.md").read_text().partition("## What is written by hand")[0]
    for requirement in needed:
        name = re.match(r"[\w-]+", requirement)[0]
        assert f"`{name}`" in table, name


def list_commands():
    return [
        line.partition("#")[0].strip()
        for page in ("get-started", "paper-tables")
        for line in re.findall(
            r"^python -m sa_bench (.+)$", (DOCS / f"{page}.md").read_text(), re.M
        )
    ]


@pytest.mark.parametrize("command", list_commands())
def test_the_commands_of_the_pages_can_be_typed(cli, command):
    """The command, its arguments and its options are there; what `run` is asked for can be planned."""
    name, *arguments = shlex.split(command)
    get_command(app).commands[name].make_context(name, list(arguments))
    if name == "run" and "--suite" not in arguments:
        if "--out" in arguments:
            place = arguments.index("--out")
            del arguments[place : place + 2]
        assert " at scale " in cli("plan", *arguments, check=0).stdout
    elif name in ("list", "show", "plan"):
        cli(name, *arguments, check=0)
