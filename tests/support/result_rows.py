"""Hand-made result rows for the tests of boards, words, plots and reports."""

import copy
import json
from dataclasses import asdict

from sa_bench.analysis.ranking import make_boards
from sa_bench.core import registry
from sa_bench.core.store import digest
from sa_bench.results.rows import measurement_row

SERVICES = dict.fromkeys(("sld", "negative_prompt", "prompt_filter", "blank", "noise"), "service")
STANDINGS = {"original": "control", "relabel": "control", "retrain": "reference"}
DECLARED = {
    "forget_top1": {"title": "Images of c_f still judged c_f", "unit": "rate", "better": "lower"},
    "recovery": {"title": "Images of c_f after refitting", "unit": "rate", "better": "lower"},
    "retain_log_likelihood": {
        "title": "Log-likelihood of the rest",
        "unit": "nats",
        "better": "higher",
    },
}
CURVE = [
    {"images": 100, "steps": s, "value": v, "low": v - 0.05, "high": v + 0.05}
    for s, v in ((0, 0.1), (100, 0.6))
]


def measurement(name, value, base=None, declared=None, **measured):
    """One row: a number (interval ± .02 around it), (value, low, high), or the reason why there is none."""
    value, low, high = value if isinstance(value, tuple) else (value, None, None)
    found = {
        "value": None,
        "reason": value,
        "interval": None,
        "n": 0,
        "n_unit": "image",
        "judges": [],
        "extra": {},
    }
    if not isinstance(value, str):
        low, high = (value - 0.02, value + 0.02) if low is None else (low, high)
        found |= {
            "value": value,
            "low": low,
            "high": high,
            "reason": None,
            "interval": "wilson",
            "n": 200,
        }
    declared = {"source": "made up", **(declared or DECLARED[name])}
    prints = {"metric": name, "version": 1}
    return measurement_row(name, "primary", declared, found | measured, {"value": base}, prints)


def result_row(method="sa", forget=0.01, recovery=0.3, keep=-94.0, error=None, **changes):
    """A schema-1 result; `error` makes it a failed one. The defaults forgot and do not come back."""
    published = changes.get("scale") == "paper"  # as many images of c_f as were published
    task = json.loads(
        json.dumps(
            asdict(registry.get_task(changes.get("task", "mnist_0") if published else "mnist_0"))
        )
    )
    task |= {
        k: v for k, v in task["scales"].get("paper", {}).items() if published and k == "n_forget"
    }
    row = {
        "schema": 1, "task": "mnist_0", "task_title": task["title"], "method": method, "fields": {}, "seed": 0,
        "base_seed": 0, "scale": "quick", "overrides": {}, "control": STANDINGS.get(method) == "control",
        "standing": STANDINGS.get(method, "method"), "threat_model": SERVICES.get(method, "weights"),
        "cell": "12345678", "status": "done", "error": None,
        "concept": "zero", "task_values": task, "summary": f"`{method}`", "flags": [],
        "cost": {"forget": {"wall_s": 3.0, "cpu_s": 2.0, "peak_mib": 800, "device": "cpu", "cached": False}},
        "artifacts": {"model": "m" * 64, "base": "b" * 64, "samples": {}},
        "trainings": [
            {"stage": f"forget {method}", "steps": 20, "planned": 20, "end": "all steps were done",
             "losses": [float(9 - i) for i in range(9)]},
        ],
        "provenance": {"command": f"python -m sa_bench run --method {method}",
                       "commit": "0123456789abcdef0123456789abcdef01234567",
                       "cell_command": f"python -m sa_bench run --method {method} --seed 0",
                       "versions": {"torch": "9.9"},
                       "hardware": {"cpu": "a CPU"}, "assets": {}, "started": "now", "finished": "now", "plug_ins": {},
                       "method_version": 1,
                       "precision": {"asked": "auto", "base": "fp32", "forgetting": "bf16"}},
        "measurements": [
            measurement("forget_top1", forget, 0.99),
            measurement("recovery", recovery, 0.99, extra={"curve": CURVE}),
            measurement("retain_log_likelihood", keep, -93.0),
        ],
    }  # fmt: skip
    if error is not None:
        row |= {"status": "failed", "error": error, "measurements": [], "artifacts": {}, "cost": {}}
    row |= changes
    if row["artifacts"]:  # another seed, base or setting is another model
        row["artifacts"]["model"] = digest(
            [row[k] for k in ("method", "fields", "seed", "base_seed")]
        )
    return row


def on_bases(rows, bases=3, apart=0.01):
    """The rows once more on further base models, `apart` in retention; one run of nats bounds nothing."""
    repeated = []
    for row in rows:
        for base in range(bases):
            copied = copy.deepcopy(row) | {"base_seed": base}
            for m in copied["measurements"][2:3]:
                if m["value"] is not None:
                    m["value"] += apart * (base - (bases - 1) / 2)
            if copied["artifacts"]:
                copied["artifacts"]["model"] = digest([row["artifacts"]["model"], base])
            repeated.append(copied)
    return repeated


RETRAIN = result_row("retrain", forget=0.09, recovery=(0.45, 0.40, 0.50), keep=-104.0)
ORIGINAL = result_row("original", forget=0.99, recovery=0.98, keep=-93.0)
RELABEL = result_row("relabel", forget=(0.0, 0.0, 0.02), recovery=0.8, keep=-93.0)
OTHERS = [RETRAIN, ORIGINAL, RELABEL]


def one(rows):
    (board,) = make_boards(rows)
    return board


def line(board, label):
    return next(x for x in board.lines if x.label == label)
