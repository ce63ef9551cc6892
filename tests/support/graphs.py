"""Cells that take a second, for tests of how runs are divided among workers."""

from sa_bench.engine.cells import resolve

QUICK = [
    "task.n_forget=20", "task.n_retain=5", "task.metrics=forget_top1,retain_drift",
]  # fmt: skip
SHORT = ["steps=20", "fisher.n=200"]


def small_cells(methods, **options):
    """Resolve VAE cells of a few steps."""
    cells = []
    for method in methods:
        trained = method in ("sa", "l2", "no_gr", "no_ewc", "permuted_f")
        sets = [f"{method}.{one}" for one in SHORT] if trained else []
        if method in ("no_gr", "no_ewc"):
            sets = sets[:1]
        cells += resolve(["mnist_0"], [method], "quick", sets=[*QUICK, *sets], **options)
    return cells
