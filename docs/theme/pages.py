"""Make the pages of the documentation site that are not written in docs/ (a hook of mkdocs).

README.md, CONTRIBUTING.md and CHANGELOG.md become pages. The reference is made from the code. Files
of the repository that a page links to become pages of their own, so that every link leads somewhere
in the site as it does on a code host.
"""

from __future__ import annotations

import inspect
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from typer.cli import get_docs_for_click
from typer.main import get_command

import sa_bench
from sa_bench.commands.app import app
from sa_bench.commands.show import describe
from sa_bench.core.registry import list_entries
from sa_bench.results import schema

ROOT = Path(__file__).parents[2]
MOVED = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""Pages outside docs/, by their path in the repository, and their path in the site."""
FIRST = ("concepts.md", "glossary.md")
"""Pages that search finds first: who looks for a word wants to know what it means."""
LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)#\s]+)")
KINDS = {
    "method": ("Methods", "A method turns the base model θ* into a model that forgot."),
    "task": ("Tasks", "A task is a base model, a concept and the protocol that judges it."),
    "metric": ("Metrics", "A metric turns sample sets, and where needed the model, into a number."),
}
PROGRAM = "python -m sa_bench"
SHOWN = "What `python -m sa_bench show NAME` prints."
CONTRACTS = {
    "What a method is": "contracts.method",
    "What a metric is": "contracts.metric",
    "What a task is": "contracts.task",
    "What a model is": "contracts.model",
    "Sample sets": "contracts.samples",
    "Intervals": "statistics.intervals",
    "Intervals over prompts": "statistics.clustered",
}
"""Modules that own components use, by their headings on the page of the Python interface."""
RESULT_TYPES = (
    schema.ResultRow,
    schema.ValuesOfWords,
    schema.Measurement,
    schema.JudgeValue,
    schema.StageCost,
    schema.Artifacts,
    schema.TrainingValues,
    schema.Provenance,
    schema.Hardware,
)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are not in docs/."""
    pages = {site: (ROOT / path).read_text("utf-8") for path, site in MOVED.items()}
    pages["reference/command-line.md"] = write_command_line()
    for kind, (title, sentence) in KINDS.items():
        names = [entry.name for entry in list_entries(kind)]
        pages[f"reference/{kind}s.md"] = write_components(title, sentence, names)
    pages["reference/suites.md"] = write_suites()
    pages["reference/python.md"] = "\n".join(write_python())
    pages["reference/result-files.md"] = write_result_files()
    for path in find_linked_files(files):
        pages[find_page(path)] = write_source(path)
    for site, text in pages.items():
        files.append(File.generated(config, site, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turn links to files of the repository into links to their pages, and let search begin with FIRST."""
    if page.file.src_uri in FIRST:
        page.meta["search"] = {"boost": 4}
    origin = find_origin(page.file.src_uri)
    here = posixpath.dirname(page.file.src_uri)

    def relink(match: re.Match[str]) -> str:
        return posixpath.relpath(find_page(resolve(origin, match[1])), here or ".")

    return markdown if origin is None else LINK.sub(relink, markdown)


def find_origin(site: str) -> str | None:
    """Find the path in the repository of a page of the site; None if it is made from code."""
    if site in MOVED.values():
        return next(path for path, moved in MOVED.items() if moved == site)
    return f"docs/{site}" if (ROOT / "docs" / site).is_file() else None


def resolve(origin: str | None, link: str) -> str:
    """Find the path in the repository that a link of the page `origin` leads to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(origin or ""), link))


def find_page(path: str) -> str:
    """Find the path in the site of a file of the repository."""
    if path in MOVED:
        return MOVED[path]
    inside = path.removeprefix("docs/")
    is_kept = inside != path and not inside.startswith(("data", "examples"))
    return inside if is_kept else f"source/{path}.md"


def find_linked_files(files: Files) -> list[str]:
    """List the files of the repository, without a page of their own, that pages link to."""
    origins = [*MOVED, *(f"docs/{file.src_uri}" for file in files.documentation_pages())]
    linked = {
        resolve(origin, link)
        for origin in origins
        for link in LINK.findall((ROOT / origin).read_text("utf-8"))
    }
    return sorted(path for path in linked if find_page(path).startswith("source/"))


def write_source(path: str) -> str:
    """Write the page of a file of the repository; of a folder or a packed file, where it lies."""
    file = ROOT / path
    title = f"---\ntitle: {path}\nsearch: {{exclude: true}}\n---\n\n# {file.name}\n\n`{path}` in the repository"
    if not file.is_file() or file.suffix == ".xz":
        return f"{title}.\n"
    language = {".ipynb": "json"}.get(file.suffix, file.suffix.lstrip("."))
    return f"{title}:\n\n````{language}\n{file.read_text('utf-8')}\n````\n"


def write_components(title: str, sentence: str, names: list[str]) -> str:
    """Write the page of all components of a kind."""
    parts = [f"## {name}\n\n{format_wrapped(describe(name))}" for name in names]
    return "\n\n".join([f"# {title}", f"{sentence} {SHOWN}", *parts])


def write_suites() -> str:
    """Write the page of the suites that ship."""
    parts = ["# Suites", "A suite is the cells of several runs under one name: `run --suite NAME`."]
    for path in sorted((ROOT / "tasks" / "suites").glob("*.toml")):
        parts.append(f"## {path.stem}\n\n{format_wrapped(describe(path.stem))}")
    return "\n\n".join(parts)


def format_wrapped(text: str) -> str:
    """Format text as a block whose long lines are broken on narrow screens."""
    return f"````{{ .text .wrapped }}\n{text.strip()}\n````"


def write_python() -> Iterator[str]:
    """Yield the lines of the page that mkdocstrings fills from docstrings."""
    yield "# Python\n\nRun, evaluate and read results from Python; what each part must be able to do.\n"
    yield "## The commands\n\nAll of these are attributes of `sa_bench`.\n"
    yield from (f"::: {address}\n" for address in list_interface())
    for heading, module in CONTRACTS.items():
        yield f"## {heading}\n\n::: sa_bench.{module}"
        yield "    options: {show_root_heading: false, show_root_toc_entry: false}\n"


def list_interface() -> list[str]:
    """List where the names that `sa_bench` offers are defined."""
    values = [getattr(sa_bench, name) for name in sa_bench.__all__ if name != "__version__"]
    return [f"{value.__module__}.{value.__name__}" for value in values]


def write_result_files() -> str:
    """Write the page of the types of a result row, as the code declares them."""
    parts = [
        f"## {cls.__name__}\n\n````python\n{inspect.getsource(cls).strip()}\n````"
        for cls in RESULT_TYPES
    ]
    sentence = (
        f"The keys of `result.json`, schema {schema.SCHEMA}, one file a cell. Readers keep keys that they do not "
        "know. [Results in pandas](../results-data.md) has the columns of the table that is made from them."
    )
    return "\n\n".join(["# Result files", sentence, *parts])


def write_command_line() -> str:
    """Write the page of all commands with typer's own writer of documents."""
    command = get_command(app)
    set_as_markdown(command)
    context = command.make_context(PROGRAM, [], resilient_parsing=True)
    text = get_docs_for_click(obj=command, ctx=context, name=PROGRAM, title="Command line")
    return re.sub(rf"^(#+) `{PROGRAM} (.+)`$", r"\1 \2", text, flags=re.MULTILINE)


def set_as_markdown(command: Any) -> None:
    """Escape the help texts of a command and of those below it, and fence their examples."""
    command.help = (command.help or "").replace("<", "&lt;")
    command.short_help = command.help.partition("\n\n")[0]  # else cut after 45 letters
    if command.epilog:
        command.epilog = f"**Examples**:\n\n```console\n{command.epilog}\n```"
    for parameter in command.params:
        parameter.help = (getattr(parameter, "help", None) or "").replace("<", "&lt;")
    for below in getattr(command, "commands", {}).values():
        set_as_markdown(below)
