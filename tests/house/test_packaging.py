"""The wheel a user installs holds what the checkout has."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.process


def call(*arguments, cwd, path):
    """Python without site-packages' editable copy in front: `path` comes first."""
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env={"PYTHONPATH": str(path), "HOME": str(cwd), "PATH": ""},
        capture_output=True, text=True, check=True, timeout=300,
    ).stdout  # fmt: skip


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the wheel's files alone."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy, because an older build/ would be packed as well
    for name in ("sa_bench", "methods", "tasks", "metrics", "reports"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    for command in (
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source)],
        [*pip, "install", "--no-deps", "--no-compile", "--target", str(folder / "site"), "--no-index",
         "--find-links", str(folder), "sa_bench"],
    ):  # fmt: skip
        subprocess.run(command, check=True, cwd=folder, timeout=600)
    return folder / "site"


def test_the_installed_wheel_lists_what_the_checkout_lists(installed, cli, tmp_path):
    where = call(
        "-c", "import sa_bench; print(sa_bench.__file__)", cwd=tmp_path, path=installed
    ).strip()
    assert Path(where).is_relative_to(installed)
    for command in (["list"], ["show", "sa"], ["--version"]):
        wheel = call("-m", "sa_bench", *command, cwd=tmp_path, path=installed)
        assert wheel == cli(*command, check=0).stdout
        assert wheel.strip()


def test_the_wheel_carries_every_weight_card_and_template(installed):
    for pattern, inside in (
        ("sa_bench/weights/*", "sa_bench/weights"),
        ("reports/templates/*", "sa_bench/reports/templates"),
        ("tasks/published/*", "sa_bench/tasks/published"),
        ("tasks/suites/*", "sa_bench/tasks/suites"),
    ):
        names = {p.name for p in ROOT.glob(pattern) if p.is_file()}
        assert names
        assert names <= {p.name for p in (installed / inside).iterdir()}


def test_the_wheel_brings_no_stray_top_level_package(installed):
    top = {p.name for p in installed.iterdir() if not p.name.endswith(".dist-info")}
    assert top - {"bin", "__pycache__"} == {"sa_bench"}
