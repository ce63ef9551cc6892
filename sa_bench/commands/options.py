"""Options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sa_bench.commands.completion import (
    complete_methods,
    complete_metrics,
    complete_scales,
    complete_suites,
    complete_tasks,
)

WHAT, SETTINGS, HOW = "What is run", "Settings", "How it is run"  # groups of options
TaskOption = Annotated[
    str,
    typer.Option(
        "--task",
        "-t",
        metavar="TASKS",
        rich_help_panel=WHAT,
        autocompletion=complete_tasks,
        help="Task, or several: a,b; a name or ./mine.py.",
    ),
]
OneTaskOption = Annotated[
    str,
    typer.Option(
        "--task",
        "-t",
        metavar="TASK",
        rich_help_panel=WHAT,
        autocompletion=complete_tasks,
        help="One task: a name or ./mine.py.",
    ),
]
MethodOption = Annotated[
    str,
    typer.Option(
        "--method",
        "-m",
        metavar="METHODS",
        rich_help_panel=WHAT,
        autocompletion=complete_methods,
        help="Method, or several: a,b; a name or ./mine.py.",
    ),
]
SuiteOption = Annotated[
    str,
    typer.Option(
        metavar="SUITE",
        rich_help_panel=WHAT,
        autocompletion=complete_suites,
        help="A suite, or ./mine.toml, instead of --task, --method and all that belongs to them.",
    ),
]
SeedOption = Annotated[
    str, typer.Option(metavar="SEEDS", rich_help_panel=WHAT, help="Forgetting seeds: 0,1,2.")
]
BaseOption = Annotated[
    str, typer.Option(metavar="SEEDS", rich_help_panel=WHAT, help="Base model seeds: 0,1,2.")
]
SampleOption = Annotated[
    str,
    typer.Option(
        metavar="SEEDS", rich_help_panel=WHAT, help="Seeds of the images measured: 0,1,2."
    ),
]
ScaleOption = Annotated[
    str,
    typer.Option(
        metavar="SCALE",
        rich_help_panel=WHAT,
        autocompletion=complete_scales,
        help="full: our protocol; paper: what was published; small: a large model in a quarter of an "
        "hour; quick: a trial in minutes.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        rich_help_panel=SETTINGS,
        help="Set a field: lam=50; sa.lam=50 of one method; task.concept=7 of the task.",
    ),
]
SweepOption = Annotated[
    list[str] | None,
    typer.Option(
        "--sweep",
        metavar="FIELD=VALUES",
        rich_help_panel=SETTINGS,
        help="One cell for each value: lam=1,10,50 or a JSON list.",
    ),
]
MetricOption = Annotated[
    str,
    typer.Option(
        "--metric",
        metavar="METRICS",
        rich_help_panel=SETTINGS,
        autocompletion=complete_metrics,
        help="Further metrics on top of the task's: names, ./mine.py, or attacks for every attack.",
    ),
]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust",
        rich_help_panel=SETTINGS,
        help="Run the code of the .py files that the suite names.",
    ),
]
ModelOption = Annotated[
    str,
    typer.Option(
        metavar="MODEL",
        rich_help_panel=SETTINGS,
        help="A Stable Diffusion to start from: diffusers folder, weight file or hub id (task.model).",
    ),
]
JobsOption = Annotated[
    str,
    typer.Option(
        metavar="N",
        rich_help_panel=HOW,
        help="Workers side by side: a number, or auto (one for each processor or GPU).",
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        metavar="DEVICE", rich_help_panel=HOW, help="cpu, cuda, or GPUs by name: cuda:0,cuda:2."
    ),
]
EngineOption = Annotated[
    str,
    typer.Option(
        metavar="ENGINE",
        rich_help_panel=HOW,
        help="Where workers are: local (this machine) or ray (a cluster).",
    ),
]
AddressOption = Annotated[
    str,
    typer.Option(
        metavar="HOST:PORT",
        rich_help_panel=HOW,
        help="Ray cluster: auto, HOST:PORT or ray://HOST:PORT; without it Ray starts here.",
    ),
]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", rich_help_panel=HOW, help="Show Ray's own lines too.")
]
WideOption = Annotated[
    bool,
    typer.Option(
        "--wide",
        rich_help_panel=HOW,
        help="Print all columns of the table, in rows longer than the terminal.",
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        rich_help_panel=HOW,
        help="Run folder (default: below runs/, named after task and scale).",
    ),
]
