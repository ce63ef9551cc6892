"""CIFAR10 and STL10: a class-conditional DDPM forgets airplanes (paper, Section 4.1 and Appendix B.1). Needs a GPU."""

from dataclasses import replace

from sa_bench.contracts import Sampler, Task

METRICS = (
    "forget_top1",
    "recovery",
    "inception_kid",
    "inception_fid",
    "inception_precision",
    "inception_recall",
    "forget_probability",
    "entropy",
    "surrogate_fidelity",
    "retain_accuracy",
    "probe_conditions",
    "probe_denoising",
    "kid",
    "fid",
    "precision",
    "recall",
    "denoising_loss",
    "retain_drift",
)

# Verdicts against published numbers need three judges of the published recipe.
JUDGES = {
    name: tuple(f"{name}-resnet34{n}" for n in ("", "-2", "-3")) for name in ("cifar10", "stl10")
}

cifar10_airplane = Task(
    name="cifar10_airplane",
    title="CIFAR10, a DDPM forgets airplanes",
    family="ddpm",
    dataset="cifar10",
    classes=(
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ),
    concept=0,
    base="cifar10",
    surrogate="noise",
    relabel_to=1,
    judges=("cifar10-resnet34",),
    designated="cifar10-resnet34",
    reject_judge="",
    sampler=Sampler("ddpm", steps=1000, guidance=3.0, ema=True),  # the paper's w = 2
    n_forget=500,
    n_retain=5000,
    primary=("forget_top1", "recovery", "inception_kid"),
    metrics=METRICS,
    likelihood_images=0,
    likelihood_deep=0,
    recovery_budgets=(0, 30, 100),
    recovery_images=(100,),
    recovery_starts=("own", "mean"),
    recovery_rates=(0.01, 0.03),
    recovery_strong=0.0,
    recovery_batch=64,
    recovery_judged=100,
    feature_images=0,
    replay_images=4500,  # 500 of each retained class, drawn once from the averaged weights
    replay_shared=True,
    presets={"recipe": "cifar10"},
    scales={
        # As published: dropout stays on while sampling, and Table 1's order of precision and recall.
        "paper": {
            "sampler": {"dropout": True},
            "judges": JUDGES["cifar10"],
            "metrics": (*METRICS, "official_fid", "official_precision", "official_recall"),
        },
        # A trial of every stage with a network of a few thousand weights: its numbers mean nothing.
        "quick": {
            "base": "tiny",
            "judges": ("cifar10-smoke",),
            "designated": "cifar10-smoke",
            "sampler": {"steps": 4, "scheduler": "ddim"},
            "n_forget": 8,
            "n_retain": 4,
            "primary": ("forget_top1", "recovery", "kid"),
            "recovery_budgets": (0, 3),
            "recovery_images": (4,),
            "recovery_batch": 4,
            "recovery_judged": 4,
            "bound_images": 2,
            "bound_steps": 4,
            "replay_images": 18,
            "presets": {
                "recipe": "tiny",
                "steps": 5,
                "batch": 4,
                "fisher": {"n": 4, "timesteps": 8},
            },
        },
    },
)

stl10_airplane = replace(
    cifar10_airplane,
    name="stl10_airplane",
    title="STL10 at 64 pixels, a DDPM forgets airplanes",
    dataset="stl10",
    classes=("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"),
    base="stl10",
    relabel_to=2,
    judges=("stl10-resnet34",),
    designated="stl10-resnet34",
    n_retain=1300,
    presets={"recipe": "stl10", "batch": 64},
    scales={
        **cifar10_airplane.scales,
        "paper": {**cifar10_airplane.scales["paper"], "judges": JUDGES["stl10"]},
        "quick": {
            **cifar10_airplane.scales["quick"],
            "judges": ("stl10-smoke",),
            "designated": "stl10-smoke",
        },
    },
)
