"""Progress without a terminal: lines at the right times, by a clock that the test sets."""

import io
import threading

import pandas as pd
import pytest

import sa_bench
from sa_bench import api
from sa_bench.commands import progress, python, terminal
from sa_bench.core.progress_bar import ProgressBar


class Clock:
    """A clock that stands still until it is set."""

    seconds = 0.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def lines():
    return []


@pytest.fixture
def log(clock, lines):
    return progress.ProgressLog(lines.append, clock)


def test_a_stage_has_a_line_at_its_begin_every_30_seconds_and_at_its_end(log, clock, lines):
    for clock.seconds, done in enumerate((1, 2, *range(3, 100)), 0):
        log.update("a", "sa", "forget sa", done, 100)
    clock.seconds = 99
    log.update("a", "sa", "forget sa", 100, 100)
    assert lines == [
        "sa: forget sa begins, 1 of 100",
        "sa: forget sa, 31 of 100, 30 s so far, 69 s left",
        "sa: forget sa, 61 of 100, 60 s so far, 39 s left",
        "sa: forget sa, 91 of 100, 90 s so far, 9 s left",
        "sa: forget sa done, 100 of 100, 99 s",
    ]


def test_a_step_that_reports_nothing_has_its_line_too(log, clock, lines):
    log.update("a", "sa", "measure recovery", 1, 15)
    for clock.seconds in range(1, 65):
        log.remind()
    assert lines[1:] == [
        "sa: measure recovery, 1 of 15, 30 s so far",
        "sa: measure recovery, 1 of 15, 60 s so far",
    ]


def test_metrics_are_one_stage_and_name_the_one_under_way(log, clock, lines):
    for done, name in enumerate(("fid", "kid", "recovery")):
        log.update("a", "sa", f"measure {name}", done, 3)
        log.update("a", "sa", "features", 20, 20)  # on the way, at once
    clock.seconds = 31
    log.remind()
    assert lines == [
        "sa: measure begins, 0 of 3",
        *["sa: features done, 20 of 20"] * 3,
        "sa: measure recovery, 2 of 3, 31 s so far, 16 s left",
    ]
    log.update("a", "sa", "measure", 3, 3)
    assert lines[-1] == "sa: measure done, 3 of 3, 31 s"


def test_cells_side_by_side_have_lines_of_their_own(log, clock, lines):
    log.update("m-1", "sa", "forget", 1, 10)
    log.update("m-2", "esd", "forget", 1, 10)
    log.finish("1")
    clock.seconds = 30
    log.remind()
    assert [line for line in lines if "so far" in line] == ["esd: forget, 1 of 10, 30 s so far"]


def test_the_display_writes_lines_where_there_is_no_terminal(clock, capsys):
    with terminal.Live(clock) as live:
        live.update("a-1", "sample retain", 10, 90)
        clock.seconds = 40
        live.update("a-1", "sample retain", 20, 90)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "a-1: sample retain begins, 10 of 90",
        "a-1: sample retain, 20 of 90, 40 s so far, 280 s left",
    ]


def test_the_background_reminds_and_stops(lines):
    log, reminded = progress.ProgressLog(lines.append, lambda: 0.0), threading.Event()
    log.remind = reminded.set
    log.start(interval=0.001)
    assert reminded.wait(60)
    log.stop()


@pytest.mark.parametrize("shown", [True, False])
def test_a_bar_shows_cell_and_stage_unless_it_is_turned_off(shown):
    file = Terminal()
    with ProgressBar(shown, file) as bar:
        bar.titles = {"1": "mnist_0 × sa"}
        bar.update("mnist_0-sa-1", "forget sa", 1, 10)
        bar.update("mnist_0-sa-1", "sample retain", 3, 90)
        bar.finish("1")
        assert not bar.bars
    text = file.getvalue()
    assert ("mnist_0 × sa: forget sa:" in text) == shown
    assert ("mnist_0 × sa: sample retain:" in text) == shown
    assert shown or text == ""


def test_a_bar_in_a_file_says_nothing_of_what_is_quick():
    file = io.StringIO()
    with ProgressBar(True, file) as bar:
        for done in range(11):
            bar.update("a-1", "forget sa", done, 10)
    assert not file.getvalue().strip()


def test_all_metrics_have_one_bar():
    file = Terminal()
    with ProgressBar(True, file) as bar:
        bar.update("a-1", "measure fid", 0, 2)
        first = bar.bars["a-1"]
        bar.update("a-1", "measure kid", 1, 2)
        assert bar.bars["a-1"] is first
        assert first.desc == "a-1: measure kid: "
        bar.update("a-1", "measure", 2, 2)
        assert first.n == 2


@pytest.mark.parametrize("shown", [True, False])
def test_run_hands_the_bar_on(monkeypatch, shown, store_env, tmp_path):
    reports = []

    def run_folder(cells, *, report, finished, **options):
        report(cells[0].name, "forget sa", 1, 2)
        finished({"cell": cells[0].id})
        return [], tmp_path, tmp_path

    monkeypatch.setattr(api, "run_folder", run_folder)
    monkeypatch.setattr(python, "read_frame", lambda folder: pd.DataFrame())
    monkeypatch.setattr("sa_bench.core.progress_bar.tqdm", lambda **o: reports.append(o) or Bar())
    sa_bench.run("mnist_0", "sa", progress=shown)
    assert [o["desc"] for o in reports] == (
        ["mnist_0 × sa (base 0, seed 0): forget sa"] if shown else []
    )


class Terminal(io.StringIO):
    """A file that a bar can be drawn over."""

    def isatty(self):
        return True


class Bar:
    """A bar that draws nothing."""

    n, desc = 0, ""

    def set_description(self, text, refresh):
        pass

    def update(self, n):
        pass

    def close(self):
        pass
