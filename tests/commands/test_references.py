"""What is cited has an entry, and `show` prints it."""

import re
from pathlib import Path

import pytest

from sa_bench.commands.show import describe
from sa_bench.core import citations, registry
from sa_bench.core.version import __version__

SOURCES = [
    *((e.name, registry.get_method(e.name).source) for e in registry.list_entries("method")),
    *((e.name, registry.get_metric(e.name).source) for e in registry.list_entries("metric")),
]


@pytest.mark.parametrize(
    ("source", "keys"),
    [
        ("Heng & Soh 2023, Eq. 4; official vae/train_forget.py", ["heng2023"]),
        ("Bińkowski et al. 2018, Eq. 4", ["binkowski2018"]),
        (
            "textual inversion (Gal et al. 2023), as in Concept Inversion (Pham et al. 2024)",
            ["gal2023", "pham2024"],
        ),
        ("Zhang et al. 2024b (post-ASR)", ["zhang2024b"]),
        ("a control of this suite", []),
        ("esd_sd.py, 2025", []),
    ],
)
def test_authors_and_year_are_the_key(source, keys):
    assert citations.cited_keys(source) == keys


@pytest.mark.parametrize(("name", "source"), SOURCES)
def test_every_cited_work_has_an_entry(name, source):
    years = re.findall(r"\b(?:19\d\d|20[0-2]\d)[a-z]?\b", source)
    assert len(citations.cited_keys(source)) == len(years), source
    assert set(citations.cited_keys(source)) <= set(citations.load_references())


def test_no_entry_is_there_for_nothing():
    used = {key for _, source in SOURCES for key in citations.cited_keys(source)}
    assert used == set(citations.load_references())


def test_show_prints_the_entry():
    assert "@inproceedings{gandikota2023," in describe("esd")
    assert "@inproceedings{heusel2017," in describe("inception_fid")
    assert "@" not in describe("noise").rpartition("source:")[2]


def test_the_citation_file_names_this_version():
    text = (Path(__file__).parents[2] / "CITATION.cff").read_text()
    assert f"version: {__version__}" in text
