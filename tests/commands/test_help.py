"""Help as a newcomer reads it, and what a shell completes."""

import re
import shlex

import pytest
from sa_bench.reports import figures
from typer.main import get_command

from sa_bench.commands import completion, help
from sa_bench.commands.app import app
from sa_bench.contracts import Method
from sa_bench.core import registry
from sa_bench.engine.cells import SCALES


def list_commands(group, path=()):
    """Every command with the words that call it, also those of groups."""
    yield path, group
    for name, command in getattr(group, "commands", {}).items():
        yield from list_commands(command, (*path, name))


COMMANDS = dict(list_commands(get_command(app)))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_reads_well_at_80_columns(cli, path):
    text = cli(*path, "--help", env={"COLUMNS": "80"}, check=0).stdout
    assert not re.search(r"[<{}]|list\[|x>=", text)
    assert max(map(len, text.splitlines())) <= 80
    assert "..." not in text.replace("ARGS]...", "").replace("]...", "").replace(
        "RUN...", ""
    ).replace("NAME...", "")
    options = [p for p in COMMANDS[path].params if not help.is_argument(p)]
    for option in options:
        assert option.is_flag or option.metavar, option.name


def test_commands_and_options_stand_in_groups(cli):
    text = cli("--help", check=0).stdout
    assert [g for g in help.GROUPS if f"\n{g}:\n" in text] == [*help.GROUPS]
    text = cli("run", "--help", check=0).stdout
    for title in ("What is run:", "Settings:", "How it is run:", "Other options:", "Examples:"):
        assert f"\n{title}\n" in text


def test_every_example_is_parsed(cli):
    """Each option of an example is one of its command's."""
    examples = 0
    for command in COMMANDS.values():
        for line in (command.epilog or "").splitlines():
            words = shlex.split(line.removeprefix(help.PROGRAM))
            path = next(tuple(words[:n]) for n in (2, 1) if tuple(words[:n]) in COMMANDS)
            if words[-1] != "--help" and ">" not in words:
                COMMANDS[path].make_context(path[-1], words[len(path) :], resilient_parsing=True)
            examples += 1
    assert examples > 30


@pytest.mark.parametrize(
    ("command", "words", "offered"),
    [
        ("run", ["--task", "mnist_0_d"], ["mnist_0_ddpm", "mnist_0_ddpm_cover5"]),
        ("run", ["--method", "retrain,s"], ["retrain,sa", "retrain,salun", "retrain,sld"]),
        ("run", ["--suite", "micro-"], ["micro-1"]),
        ("run", ["--metric", "fi"], ["fid"]),
        ("run", ["--scale", "q"], ["quick"]),
        ("show", ["micro-1"], ["micro-1"]),
        ("show", ["retain_dr"], ["retain_drift"]),
        ("list", ["m"], ["methods", "metrics"]),
        ("figure", ["p"], ["pareto"]),
    ],
)
def test_names_are_completed(cli, command, words, offered):
    typed = f"sa_bench {command} {' '.join(words)}"
    env = {
        "_SA_BENCH_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(words) + 1),
    }
    assert set(offered) <= set(cli(env=env, check=0).stdout.split())


def test_the_completion_is_that_of_the_installed_command(cli):
    text = cli("--show-completion", env={"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"})
    assert "python -m" not in text.stdout


def test_what_completion_and_listing_name_is_what_there_is():
    assert completion.list_scales() == SCALES
    assert [*completion.FIGURES] == [*figures.KINDS]
    for name, default in registry.FACTS.items():
        declared = getattr(Method, name)
        assert default == (declared if isinstance(declared, str) else declared.__name__)
