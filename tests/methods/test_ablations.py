"""SA and its ablations: each differs from SA in the one thing that it takes away, whatever the task and the scale."""

import pytest
from at_scales import AT_SCALES

from sa_bench.contracts import Recipe
from sa_bench.core import registry
from sa_bench.core.fields import resolve_fields
from sa_bench.engine.cells import resolve_task
from sa_bench.training.loop import TRAINERS

ABLATIONS = [
    entry.name
    for entry in registry.list_entries("method")
    if getattr(registry.get_method(entry.name), "ablates", "") == "sa"
]
TASKS = [entry.name for entry in registry.list_entries("task")]
TAKEN = {
    "no_gr": {"gamma"},
    "no_ewc": {"lam", "half", "fisher"},
    "l2": set(),
    "permuted_f": set(),
    "naive": set(),
}  # fields of SA that stand for what an ablation takes away
OWN = {"permuted_f": {"permutation"}, "naive": {"stop_at"}}  # and fields that SA has not
APART = {
    # It diverges: at SA's rate on the VAE (1e-3) it would be past its end within a few steps, so it has the paper's.
    ("naive", "vae", "full"): {"steps": 10_000, "lr": 1e-4},
    ("naive", "vae", "quick"): {"steps": 10_000, "lr": 1e-4},
}


def task_at(name, scale, tmp_path):
    (tmp_path / "i2p.csv").write_text("prompt,sd_seed\na,1\n")
    given = {"prompts.files.test": str(tmp_path / "i2p.csv")} if name == "nudity_i2p" else {}
    return resolve_task(name, scale, given)


def test_every_ablation_is_known_here():
    assert set(ABLATIONS) == set(TAKEN)


@pytest.mark.parametrize(("name", "scale"), AT_SCALES)
def test_an_ablation_is_sa_but_for_what_it_takes_away(name, scale, tmp_path):
    task = task_at(name, scale, tmp_path)
    sa = resolve_fields("sa", task, scale, {})
    recipe = Recipe(sa["steps"], sa["lr"], sa["batch"], **TRAINERS[sa["trainer"]])
    for ablation in ABLATIONS:
        fields = resolve_fields(ablation, task, scale, {})
        apart = APART.get((ablation, task.family, scale), {})
        assert set(sa) - set(fields) == TAKEN[ablation], ablation
        assert set(fields) - set(sa) == OWN.get(ablation, set()), ablation
        for key, value in fields.items():
            if key in sa:
                assert value == apart.get(key, sa[key]), (ablation, key)
        if "lam" in fields:  # the penalty against the mean loss of an image
            share = {"sum": fields["batch"], "mean": 1}
            per_image = fields["lam"] / share[fields["reduction"]]
            assert per_image == sa["lam"] / {"sum": sa["batch"], "mean": 1}[sa["reduction"]], (
                ablation
            )
        if not apart:  # rate, decay, averaging and precision of every step
            assert recipe == Recipe(
                fields["steps"], fields["lr"], fields["batch"], **TRAINERS[fields["trainer"]]
            )


@pytest.mark.parametrize(
    ("task", "scale", "lam_per_image", "steps", "trainer"),
    [
        ("mnist_0", "paper", 100 / 256, 10_000, "adam"),
        ("mnist_0", "full", 50 / 128, 1_000, "adam"),
        ("cifar10_airplane", "paper", 10.0, 20_000, "adam"),
        (
            "stl10_airplane",
            "paper",
            10.0,
            20_000,
            "adam",
        ),  # a batch of 64, so a sum would have needed 640
        ("mnist_0_t2i", "full", 50 / 32, 150, "adam"),
        ("celeb_brad_pitt", "paper", 50.0, 12_600, "ldm"),
        ("nudity_explicit", "full", 50.0, 31_500, "adam"),
        ("nudity_explicit", "paper", 50.0, 31_500, "ldm"),
    ],
)
def test_what_sa_and_all_that_hold_to_it_resolve_to(task, scale, lam_per_image, steps, trainer):
    task = resolve_task(task, scale, {})
    for method in ("sa", "no_gr", "l2", "permuted_f"):
        found = resolve_fields(method, task, scale, {})
        share = found["batch"] if found["reduction"] == "sum" else 1
        assert (found["lam"] / share, found["steps"], found["trainer"]) == (
            lam_per_image,
            steps,
            trainer,
        )


def test_a_setting_of_sa_on_the_command_line_is_its_own_alone():
    task = resolve_task("nudity_explicit", "full", {})
    assert resolve_fields("no_gr", task, "full", {"steps": "7"})["steps"] == 7
    assert resolve_fields("esd", task, "full", {})["steps"] == 200
