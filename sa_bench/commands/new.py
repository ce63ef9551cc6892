"""`new method|metric|task NAME`: write a file to start from. It passes `check` and runs as it is."""

from __future__ import annotations

import keyword
from pathlib import Path
from typing import Annotated

import typer

from sa_bench.commands.arguments import print_text
from sa_bench.commands.help import EXTEND, PROGRAM, Commands, declare
from sa_bench.core.errors import SaBenchError

new_app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Write a file to start your own method, metric or task from.",
)
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Its name, and the file's.")]
InOption = Annotated[
    Path, typer.Option("--in", metavar="FOLDER", help="Where to write it (default: here).")
]

METHOD = '''"""`{name}`: one line that `list` shows.

    L(θ) = E_{{q(x|c_f)}}[−ELBO(x|θ, c_f)] + γ E_{{p(x_r|c_r)}}[−ELBO(x_r|θ, c_r)]

Write your objective here first, term by term, with its source; then make `forget` read like it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from sa_bench.contracts import Count, Generator, Method, Rate, Recipe, Run, Task, Weight
from sa_bench.training import losses


@dataclass(frozen=True)
class {cls}(Method):
    """Fields are the paper's symbols; they become --set, the cache key and the table's column."""

    gamma: Weight = 1.0  # weight of replay
    lr: Rate = 1e-3  # Adam
    steps: Count = 1_000
    batch: Count = 256  # images of each source

    version: ClassVar[int] = 1  # raise it when the same fields give another model
    source: ClassVar[str] = "yours"
    presets: ClassVar[Mapping[tuple[str, str], Mapping[str, Any]]] = {{
        ("vae", "quick"): {{"steps": 300}}
    }}

    def forget(self, model: Generator, task: Task, run: Run) -> Generator:
        """θ; `model` is a copy of θ* that may be changed, `run.rng` the only randomness.

        What `run` gives, each made once and shared by all methods:
            run.surrogate()         samples of q(x|c_f), labelled c_f: what c_f shall become
            run.replay()            the base model's samples for everything to be remembered
            run.concept_samples()   the base model's samples for c_f
            run.captioned(texts)    the base model's images of prompts (`shows` names them)
            run.fisher(options)     the diagonal of F at θ*, by name of parameter
            run.data()              real images of the rest, if the class has needs = ("data",)
            run.fresh()             a new model that was never trained
            run.recipe(name)        a recipe of the model family, such as the base model's
            run.train(model, loss, recipe, scope, pull, stop)   trains; can be resumed
        """
        q, replay = run.surrogate(), run.replay()

        def objective() -> Tensor:
            forget, remember = losses(model, (q, replay), self.batch, run.rng)
            return forget.sum() + self.gamma * remember.sum()

        run.train(model, objective, Recipe(self.steps, self.lr, self.batch))
        return model
'''

METRIC = '''"""One line that `list` shows: what is measured, in which images."""

from sa_bench.contracts import Measured, View, metric
from sa_bench.statistics import bounded_mean


@metric(
    version=1,  # raise it when the same images give another value
    title="Brightness of c_f's images",
    better=None,  # "lower", "higher" or, without a direction, None
    unit="grey",
    requires=("samples",),  # also: "base", "real", "judges", "model"; without it the value is n/a
    source="yours",
    fields=("concept",),  # fields of the task that the value depends on
)
def {name}(view: View) -> Measured:
    """Mean pixel of c_f's images, in [0, 1]; the interval is over images.

    What `view` gives, each loaded on first use:
        view.samples["forget"]   images of c_f: .images uint8 (N, H, W, C), .labels, .seeds, .prompts
        view.samples["retain"]   images of everything to be remembered
        view.base["forget"]      the base model's images from the same seeds
        view.real("retain_test") real images
        view.judges              by name; judge.probabilities(images), judge.features(images)
        view.model               the measured model;  view.base_model  the base model
        view.task                concept, classes, surrogate and all other fields
        view.rng("noise")        the only randomness
    """
    images = view.samples["forget"]
    brightness = images.images.reshape(len(images), -1).mean(1) / 255
    return bounded_mean(brightness, {{"seed": images.seeds}})
'''

TASK = '''"""One line: which model forgets what."""

from dataclasses import replace

from sa_bench.core import registry

# Everything that is not named here is as in mnist_0; `show mnist_0` lists all fields.
{name} = replace(
    registry.get_task("mnist_0"),
    name="{name}",
    title="MNIST, a VAE forgets the digit 7 and draws a 1",
    concept=7,  # an index into `classes`
    surrogate="class:1",  # what c_f shall become: noise, class:<c> or folder:<path>
    relabel_to=1,  # the class that the control `relabel` shows in c_f's place
)
'''
TEMPLATES = {"method": METHOD, "metric": METRIC, "task": TASK}
RUNS = {
    "method": "run --task mnist_0 --method {path},retrain,relabel --scale quick",
    "metric": "run --task mnist_0 --method relabel --metric {path} --scale quick",
    "task": "run --task {path} --method sa,retrain,relabel --scale quick",
}
"""The command that tries a file, by kind."""


@new_app.command("method", **declare(EXTEND, "new method mine", "new method mine --in methods"))
def new_method(name: NameArgument, folder: InOption = Path()) -> None:
    """Write NAME.py, a method that runs as it is."""
    _write_and_tell("method", name, folder)


@new_app.command("metric", **declare(EXTEND, "new metric mine"))
def new_metric(name: NameArgument, folder: InOption = Path()) -> None:
    """Write NAME.py, a metric that runs as it is."""
    _write_and_tell("metric", name, folder)


@new_app.command("task", **declare(EXTEND, "new task mine"))
def new_task(name: NameArgument, folder: InOption = Path()) -> None:
    """Write NAME.py, a task that runs as it is."""
    _write_and_tell("task", name, folder)


def _write_and_tell(kind: str, name: str, folder: Path) -> None:
    """Write the file of a component, and print what to do next."""
    path = write_component(kind, name, folder)
    shown_path = str(path) if path.is_absolute() else f"./{path}"
    print_text(f"Wrote {path}. Next:")
    print_text(f"  {PROGRAM} check {shown_path}")
    print_text(f"  {PROGRAM} {RUNS[kind].format(path=shown_path)}")


def write_component(kind: str, name: str, folder: Path) -> Path:
    """Write `folder/name.py`, a component of that kind, and return its path.

    Raises:
        SaBenchError: `name` is not a Python name or is taken, or the file exists or cannot be
            written.
    """
    from sa_bench.core import registry

    if not name.isidentifier() or name != name.lower() or keyword.iskeyword(name):
        raise SaBenchError(
            f"{name!r} cannot name a {kind}: use small letters, digits and underscores."
        )
    if name in {entry.name for entry in registry.list_entries(kind)}:
        raise SaBenchError(f"A {kind} called {name} already exists; choose another name.")
    path = folder / f"{name}.py"
    if path.exists():
        raise SaBenchError(
            f"{path} already exists; nothing was written. Choose another name or --in FOLDER."
        )
    title = "".join(part.capitalize() for part in name.split("_"))
    try:
        path.write_text(TEMPLATES[kind].format(name=name, cls=title), encoding="utf-8")
    except OSError as error:
        raise SaBenchError(f"{path} cannot be written ({error.strerror}).") from error
    return path
