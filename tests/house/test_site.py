"""The documentation site: it builds without a warning, its links lead somewhere, and it asks no other server."""

import json
import re
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.main import get_command

import sa_bench
from sa_bench.commands.app import app
from sa_bench.core import registry
from sa_bench.results.schema import ResultRow

ROOT = Path(__file__).parents[2]
LOADED = re.compile(
    r"<(?:script|img|iframe|source|video|audio|embed)\b[^>]*?\b(?:src|srcset)=\"?([^\" >]+)"
    r"|<link\b(?![^>]*rel=\"?(?:next|prev|canonical|author|license))[^>]*?\bhref=\"?([^\" >]+)"
)
"""What a browser loads of a page without being asked; links to other pages are none of it."""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built in strict mode: a warning fails."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_MKDOCS_2_WARNING", "1")
        from mkdocs.commands.build import build
        from mkdocs.config import load_config

        folder = tmp_path_factory.mktemp("site")
        build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True))
    return folder


@pytest.fixture(scope="module")
def pages(site):
    """The HTML of each page, by its path in the site."""
    return {
        path.relative_to(site).as_posix(): path.read_text("utf-8") for path in site.rglob("*.html")
    }


def find_remote(html):
    """List what a page loads from another server."""
    loaded = [first or second for first, second in LOADED.findall(html)]
    return [address for address in loaded if re.match(r"(?:https?:)?//", address)]


def test_what_would_ask_another_server_is_found():
    page = '<link rel="stylesheet" href="https://a.example/x.css"><script async src=//b.example/y.js></script>'
    page += '<img alt="" src="http://c.example/z.png"><a href="https://d.example">a link</a><img src="here.png">'
    assert find_remote(page) == [
        "https://a.example/x.css",
        "//b.example/y.js",
        "http://c.example/z.png",
    ]


def test_no_page_asks_another_server(site, pages):
    assert {name: found for name, html in pages.items() if (found := find_remote(html))} == {}
    # the theme would fetch the library that draws such blocks
    assert [name for name, html in pages.items() if 'class="mermaid"' in html] == []
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", sheet.read_text("utf-8"))


def test_every_link_of_the_site_leads_somewhere(site, pages):
    @cache
    def ids(name):
        return set(re.findall(r"\b(?:id|name)=\"?([^\" >]+)", pages[name]))

    for name, html in pages.items():
        if name == "404.html":  # it is shown at any address
            continue
        for link in set(re.findall(r"<a\b[^>]*?\bhref=\"?([^\" >]+)", html)):
            if re.match(r"https?:", link):
                continue
            path, _, anchor = link.partition("#")
            target = ((site / name).parent / path).resolve() if path else site / name
            assert target.is_file(), (name, link)
            if anchor and anchor != "__skip" and target.suffix == ".html":
                assert anchor in ids(target.relative_to(site).as_posix()), (name, link)


def test_every_document_is_a_page(site):
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").as_posix().replace("README.md", "index.md")
        assert (site / name).with_suffix(".html").is_file(), name


def test_marks_are_read_as_code_hosts_read_them(pages):
    """The star of θ* begins no emphasis, and no mark of Markdown is left in a page's text."""
    for name, html in pages.items():
        article = html.partition("<article")[2].partition("</article")[0]
        assert not re.search(r"\w<(?:em|strong)>", article), name
        if not name.startswith("source/"):
            text = re.sub(r"<(code|pre)\b.*?</\1>|<[^>]+>", "", article, flags=re.DOTALL)
            assert not re.search(r"\*\*|\]\(|\|\s*---|^#+ |\\[_*`]", text, re.MULTILINE), name


def test_the_readme_and_the_documents_link_to_each_other(pages):
    assert 'href="architecture.html"' in pages["index.html"]
    assert 'href="../index.html#what-these-numbers-may-claim"' in pages["boards/index.html"]
    assert 'href="source/tests/house/test_layering.py.html"' in pages["architecture.html"]


@pytest.mark.parametrize("kind", ["method", "task", "metric"])
def test_the_reference_has_every_component(pages, kind):
    for entry in registry.list_entries(kind):
        assert f'id="{entry.name}"' in pages[f"reference/{kind}s.html"]


def test_the_reference_has_every_suite_command_and_key(pages):
    for path in (ROOT / "tasks" / "suites").glob("*.toml"):
        assert f'id="{path.stem}"' in pages["reference/suites.html"]
    for name, command in get_command(app).commands.items():
        assert f'id="{name}"' in pages["reference/command-line.html"]
        for option in (o for p in command.params for o in p.opts if o.startswith("--")):
            assert option in pages["reference/command-line.html"], (name, option)
    for key in ResultRow.__annotations__:
        assert key in pages["reference/result-files.html"]
    for value in (getattr(sa_bench, name) for name in sa_bench.__all__ if name != "__version__"):
        assert f'id="{value.__module__}.{value.__name__}"' in pages["reference/python.html"]


def test_the_search_finds_words_with_and_without_a_server(site):
    index = (site / "search" / "search_index.json").read_text("utf-8")
    entries = json.loads(index)["docs"]
    for word, page in (
        ("recovery", "recovery.html"),
        ("salun", "reference/methods.html"),
        ("floor", "concepts.html"),
    ):
        assert any(word in e["text"].lower() and e["location"].startswith(page) for e in entries)
    assert not any(entry["location"].startswith("source/") for entry in entries)
    assert (site / "search" / "search_index.js").read_text("utf-8") == f"var __index = {index}"
    assert 'src="theme/iframe-worker.js"' in (site / "index.html").read_text("utf-8")


def test_help_is_shown_as_it_is_typed():
    spec = spec_from_file_location("pages", ROOT / "docs" / "theme" / "pages.py")
    pages = module_from_spec(spec)
    spec.loader.exec_module(pages)
    made = typer.Typer()

    @made.command(epilog="mine <a> *b*")
    def mine(folder: Annotated[str, typer.Option(help="Has retain/<class>/.")] = ""):
        """Take <this>."""

    command = get_command(made)
    pages.set_as_markdown(command)
    assert command.help == "Take &lt;this>."
    assert command.params[0].help == "Has retain/&lt;class>/."
    assert "```console\nmine <a> *b*\n```" in command.epilog
