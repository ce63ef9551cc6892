"""The pages of `--help`: commands and options in groups, then examples; plain text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from typer.core import TyperCommand, TyperGroup

LOOK, RUN, READ = "Look around", "Run and measure", "Read results"
SHARE, EXTEND, MACHINE = "Share and check results", "Add your own", "Files on this machine"
GROUPS = (LOOK, RUN, READ, SHARE, EXTEND, MACHINE)
"""Groups of commands, in the order of `--help`."""
OTHERS = "Other options"
PROGRAM = "python -m sa_bench"


class Command(TyperCommand):
    """A command whose help groups its options (`rich_help_panel`) and ends with examples."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """List what follows the command in the usage line; typer would put braces around it."""
        arguments = [name_argument(p) for p in self.get_params(ctx) if is_argument(p)]
        return [self.options_metavar or "", *arguments]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, then the options of each group, then the others."""
        parameters: list[Any] = self.get_params(ctx)
        parameters = [p for p in parameters if not getattr(p, "hidden", False)]
        arguments = [(name_argument(p), p.help or "") for p in parameters if is_argument(p)]
        groups: dict[str, list[Any]] = {}
        for parameter in parameters:
            if not is_argument(parameter):
                group = getattr(parameter, "rich_help_panel", None) or OTHERS
                name, text = parameter.get_help_record(ctx)
                groups.setdefault(group, []).append((name, text.replace("x>=", "at least ")))
        others = groups.pop(OTHERS, [])
        title = OTHERS if groups else "Options"
        write_groups(formatter, [("Arguments", arguments), *groups.items(), (title, others)])

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples, one a line."""
        write_examples(formatter, self.epilog)


class Commands(TyperGroup):
    """Commands in groups (`rich_help_panel`), with examples below."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands of each group with the first sentence of their help."""
        groups: dict[str, list[Any]] = {group: [] for group in GROUPS}
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        limit = formatter.width - 6 - max(len(name) for name, _ in commands)
        for name, command in commands:
            if command is not None and not command.hidden:
                group = getattr(command, "rich_help_panel", None) or "Commands"
                groups.setdefault(group, []).append((name, command.get_short_help_str(limit)))
        if sum(map(bool, groups.values())) == 1:
            groups = {"Commands": [row for rows in groups.values() for row in rows]}
        write_groups(formatter, groups.items())

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples, one a line."""
        write_examples(formatter, self.epilog)


def is_argument(parameter: Any) -> bool:
    """Tell whether a parameter of a command is an argument and no option."""
    return parameter.param_type_name == "argument"


def name_argument(parameter: Any) -> str:
    """Name an argument as help shows it."""
    return parameter.metavar or parameter.name.upper()


def write_groups(formatter: Any, groups: Iterable[tuple[str, list[Any]]]) -> None:
    """Write each group's rows, (name, help), under its title; one without rows is left out."""
    for title, rows in groups:
        if rows:
            with formatter.section(title):
                formatter.write_dl(rows)


def write_examples(formatter: Any, examples: str | None) -> None:
    """Write command lines as they are typed, under a title."""
    if examples:
        with formatter.section("Examples"):
            for line in examples.splitlines():
                formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


def declare(group: str, *examples: str) -> dict[str, Any]:
    """Give what a command is declared with: its group, and examples without the program's name."""
    return {
        "cls": Command,
        "rich_help_panel": group,
        "epilog": "\n".join(f"{PROGRAM} {example}" for example in examples),
    }
