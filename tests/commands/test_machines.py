"""Small and shared machines: homes, encodings, claims, full folders, extras that are not there."""

import errno
import io
import multiprocessing
import os
import pwd
import subprocess
import sys
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import platformdirs
import pytest

from sa_bench.commands import app
from sa_bench.commands.arguments import expand_home_argument
from sa_bench.core import errors, registry, settings
from sa_bench.core.errors import NO_MEMORY, SaBenchError
from sa_bench.core.store import Store
from sa_bench.engine import external, runner, suites, worker
from sa_bench.engine.cells import resolve
from sa_bench.engine.workers import Done, Lost, Place

ROOT = Path(__file__).parents[2]
FORK = multiprocessing.get_context("fork")


def _claims(out, cell, barrier, queue):
    barrier.wait()
    try:
        runner.prepare(out, [cell], False)
        queue.put("claimed")
    except SaBenchError as error:
        queue.put(str(error))


def test_of_many_runs_that_claim_a_folder_at_once_one_gets_it(tmp_path):
    cells = resolve(["mnist_0"], ["original"], "quick", seeds=range(8))
    for turn in range(5):
        out = tmp_path / str(turn)
        barrier, queue = FORK.Barrier(len(cells)), FORK.Queue()
        claims = [FORK.Process(target=_claims, args=(out, x, barrier, queue)) for x in cells]
        for claim in claims:
            claim.start()
        said = [queue.get(timeout=60) for _ in claims]
        for claim in claims:
            claim.join()
        assert said.count("claimed") == 1
        assert all("holds another run" in text for text in said if text != "claimed")
        assert [p.name for p in out.iterdir()] == ["run.json"]


def test_a_second_evaluation_into_one_folder_is_told_who_is_there(tmp_path):
    asked = {"task": "mnist_0"}
    with (
        external._hold_folder(tmp_path, asked),
        pytest.raises(
            SaBenchError, match=rf"process {os.getpid()} on .* writes there\. Choose another --out"
        ),
        external._hold_folder(tmp_path, asked),
    ):
        pass
    assert not list(tmp_path.iterdir())


@pytest.fixture
def homeless(monkeypatch):
    """A container's user that no list of users knows."""

    def unknown(uid):
        raise KeyError(uid)

    for name in ("HOME", "SA_BENCH_STORE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


def test_a_user_without_a_home_is_asked_for_a_folder(homeless, monkeypatch):
    def unknown(name):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(platformdirs, "user_cache_path", unknown)
    with pytest.raises(SaBenchError, match=r"no home folder.*set SA_BENCH_STORE"):
        settings.store_folder()
    monkeypatch.setenv("SA_BENCH_DATA", "~/data")
    with pytest.raises(
        SaBenchError, match="SA_BENCH_DATA=~/data: this user's home folder is unknown"
    ):
        settings.data_folder()


@pytest.mark.parametrize("name", ["STORE", "DATA", "WEIGHTS", "MIRROR"])
def test_a_tilde_is_the_home_folder_in_every_setting(monkeypatch, tmp_path, name):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(f"SA_BENCH_{name}", "~/there")
    assert getattr(settings, f"{name.lower()}_folder")() == tmp_path / "there"


@pytest.mark.parametrize(("given", "means"), [
    ("--out=~/x", "--out={home}/x"), ("~/x", "{home}/x"), ("a~b", "a~b"), ("--set=a=~", "--set=a=~"), ("~", "{home}"),
])  # fmt: skip
def test_a_tilde_on_the_command_line(monkeypatch, tmp_path, given, means):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expand_home_argument(given) == means.format(home=tmp_path)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.parametrize(
    "words", [["list"], ["show", "sa"], ["plan", "--task", "mnist_0", "--method", "sa,nosuch"]]
)
def test_output_that_cannot_show_a_sign_is_no_traceback(store_env, monkeypatch, encoding, words):
    """Streams as Python opens them under that encoding: an output that refuses signs, an error output that does not."""
    out, err = io.BytesIO(), io.BytesIO()
    monkeypatch.setattr(sys, "argv", ["sa_bench", *words])
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding, errors="strict"))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(err, encoding, errors="backslashreplace"))
    with pytest.raises(SystemExit) as stop:
        app.main()
    sys.stdout.flush()
    assert stop.value.code == (2 if words[0] == "plan" else 0)
    assert words[0] == "plan" or b"\\u" in out.getvalue()  # a sign that the encoding lacks


@pytest.mark.process
def test_a_process_whose_output_cannot_show_a_sign_ends_well(store_env):
    done = command(["list"], subprocess.PIPE, {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    assert b"Traceback" not in done.stderr
    assert done.returncode == 0
    assert b"\\u" in done.stdout


def command(words, stdout, env):
    return subprocess.run(
        [sys.executable, "-m", "sa_bench", *words], stdout=stdout, stderr=subprocess.PIPE, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
    )  # fmt: skip


@pytest.mark.process
def test_a_full_standard_output_is_one_line(store_env):
    with Path("/dev/full").open("w") as full:
        done = command(["list"], full, {})
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert b"The disk is full" in done.stderr


@pytest.mark.parametrize(("error", "code", "says"), [
    (MemoryError(), 1, NO_MEMORY[:14]),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes."), 1, NO_MEMORY[:14]),
    (OSError(errno.EIO, "Input/output error", "/mnt/x"), 1, "The disk fails at /mnt/x"),
    (ModuleNotFoundError("No module named 'lpips'", name="lpips"), 3, r"pip install 'sa_bench[t2i]'"),
])  # fmt: skip
def test_a_machines_failure_anywhere_is_one_line(monkeypatch, capsys, error, code, says):
    def fails(*words, **options):
        raise error

    monkeypatch.setattr(app, "app", fails)
    monkeypatch.setattr(sys, "argv", ["sa_bench", "list"])
    with pytest.raises(SystemExit) as stop:
        app.main()
    said = capsys.readouterr().err
    assert stop.value.code == code
    assert says in said
    assert said.count("\n") == 1


def test_a_byte_order_mark_is_read_over_in_plug_ins_and_suites(tmp_path):
    source = registry.component_folder("method") / "relabel.py"
    plug_in = tmp_path / "marked.py"
    plug_in.write_bytes(b"\xef\xbb\xbf" + source.read_bytes())
    assert registry.register("method", str(plug_in)) == ["marked"]
    assert registry.detect_kind(plug_in) == "method"
    assert registry.get_method("marked")
    suite = tmp_path / "s.toml"
    suite.write_bytes(b'\xef\xbb\xbf[[run]]\ntask = ["mnist_0"]\nmethod = ["original"]\n')
    assert len(suites.resolve_suite(str(suite))) == 1


def test_without_a_further_process_the_cells_run_one_after_another(monkeypatch, tmp_path, capsys):
    def none_left(self):
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(ForkServerProcess, "start", none_left)
    monkeypatch.setattr(worker.Worker, "do", do_nothing)
    cells = resolve(["mnist_0"], ["original"], "quick", seeds=[0, 1, 2])
    results = runner.run_cells(
        cells,
        Store(tmp_path),
        tmp_path,
        print,
        lambda result: None,
        placement=runner.Placement(jobs=2),
    )
    assert [r["cell"] for r in results] == [c.id for c in cells]
    assert "no further process can be started here" in capsys.readouterr().err


def do_nothing(self, order, report):
    """Do an order without work."""
    row = {"cell": order.cell.id, "status": "done"} if order.address.stage == "result" else None
    return worker.Outcome(order.id, "done", row=row)


class Killed:
    """Two workers, of which that is killed whose order `dies(order, whether another has one)`."""

    loses_alone = True

    def __init__(self, dies):
        self.places, self.dies = [Place("here", "cpu")] * 2, dies
        self.orders, self.lost, self.beside_of_repeated = {}, set(), []

    def start(self):
        pass

    def is_ready(self, number):
        return True

    def submit(self, number, order):
        self.orders[number] = order

    def wait(self, seconds):
        events = []
        for number, order in self.orders.items():
            if order.id in self.lost:
                self.beside_of_repeated.append(len(self.orders) - 1)
            if self.dies(order, len(self.orders) > 1):
                self.lost.add(order.id)
                events.append(Lost(number, "killed"))
            else:
                events.append(Done(number, do_nothing(None, order, print)))
        self.orders = {}
        return events

    def stop(self):
        pass


@pytest.mark.slow  # in this process: tests/models/test_text_to_image.py
@pytest.mark.process
def test_a_library_of_an_extra_that_is_not_there_is_named_with_its_extra(tmp_path):
    code = (  # in a process of its own: nothing of diffusers is imported there yet
        "import atexit, sys; sys.modules['transformers'] = None; sys.argv = ['sa_bench', 'plan', '--task', "
        "'celeb_brad_pitt', '--method', 'original', '--scale', 'quick']\n"
        "atexit.register(lambda: print('diffusers' in sys.modules))\n"
        "from sa_bench.commands.app import main; main()"
    )
    environment = {**os.environ, "SA_BENCH_STORE": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert "needs transformers: pip install 'sa_bench[t2i]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.endswith("False\n"), "diffusers, which takes seconds, is not imported first"


def test_what_no_extra_brings_is_a_fault_of_the_code():
    with pytest.raises(ModuleNotFoundError), errors.name_missing_extra("x"):
        raise ModuleNotFoundError("No module named 'nosuch'", name="nosuch")


def test_a_notice_survives_a_stderr_that_is_gone(monkeypatch):
    stream = io.StringIO()
    stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    errors.print_notice("x")


def test_cells_whose_process_was_killed_are_repeated_each_alone(monkeypatch, tmp_path):
    """Of three cells one is killed again; the two others, lost with it, are done."""
    first, second, third = resolve(["mnist_0"], ["original"], "quick", seeds=[0, 1, 2])

    def dies(order, beside):
        return order.address.stage == "result" and (
            order.cell is first or (beside and order.cell is second)
        )

    killed = Killed(dies)
    results = runner.run_cells(
        [first, second, third],
        Store(tmp_path),
        tmp_path,
        print,
        lambda result: None,
        workers=killed,
    )
    assert [r["status"] for r in results] == ["failed", "done", "done"]
    assert "killed, also when it ran alone" in results[0]["error"]
    assert killed.beside_of_repeated == [0, 0]
