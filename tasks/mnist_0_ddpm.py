"""MNIST at 16 pixels: a small class-conditional DDPM forgets the digit 0. The micro twin of the paper's CIFAR10."""

from dataclasses import replace

from sa_bench.contracts import Sampler, Task

PRESETS = {
    "steps": 100,
    "lr": 3e-4,
    "batch": 32,
    "reduction": "sum",
    "lam": 1.0,
    "stop_at": 256.0,  # ‖ε‖² in 256 dimensions: the loss of a model that predicts nothing
    "recipe": "micro",
    "fisher": {"n": 100, "timesteps": 200},
}

mnist_0_ddpm = Task(
    name="mnist_0_ddpm",
    title="MNIST at 16 pixels, a DDPM forgets the digit 0",
    family="ddpm",
    dataset="mnist16",
    classes=("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    concept=0,
    base="micro",
    surrogate="noise",
    relabel_to=1,
    judges=(*(f"mnist16-cnn-{seed}" for seed in range(5)), "mnist16-knn"),
    designated="mnist16-cnn-0",
    reject_judge="mnist16-reject",
    sampler=Sampler("ddim", steps=20, guidance=2.0),
    n_forget=200,
    n_retain=50,
    primary=("forget_top1", "recovery", "retain_bound"),
    metrics=(
        "forget_top1",
        "recovery",
        "retain_bound",
        "forget_probability",
        "entropy",
        "none_rate",
        "surrogate_fidelity",
        "forget_bound",
        "probe_conditions",
        "probe_denoising",
        "retain_accuracy",
        "kid",
        "fid",
        "precision",
        "recall",
        "denoising_loss",
        "retain_drift",
        "collapse",
    ),
    likelihood_images=0,
    likelihood_deep=0,
    recovery_budgets=(0, 30, 100),
    recovery_images=(100,),
    recovery_starts=("own", "mean"),
    recovery_rates=(0.01, 0.03),
    recovery_strong=0.0,
    recovery_batch=8,
    recovery_judged=40,
    feature_images=100,
    bound_steps=30,
    # As in the paper's DDPM runs replay is one set of the base's own images, drawn once.
    replay_images=1800,
    replay_shared=True,
    presets=PRESETS,
    scales={
        "quick": {
            "n_forget": 40,
            "n_retain": 20,
            "bound_images": 5,
            "bound_steps": 10,
            "recovery_budgets": (0, 100),
            "recovery_images": (20,),
            "recovery_judged": 20,
            "replay_images": 180,
            "presets": {**PRESETS, "recipe": "quick", "fisher": {"n": 20, "timesteps": 20}},
        },
    },
)

# The paper's real budget for Stable Diffusion: 1,000 replay images, drawn anew for each seed; F is computed from them.
mnist_0_ddpm_r1000 = replace(
    mnist_0_ddpm,
    name="mnist_0_ddpm_r1000",
    title="MNIST at 16 pixels, a DDPM forgets the digit 0 with 1,000 replay images",
    replay_images=1000,
    replay_shared=False,
    presets={**PRESETS, "fisher": {"n": 100, "timesteps": 200, "set": "replay"}},
)

# Replay prompts never cover all that a model knows: here five of nine classes, and the others are scored.
mnist_0_ddpm_cover5 = replace(
    mnist_0_ddpm,
    name="mnist_0_ddpm_cover5",
    title="MNIST at 16 pixels, a DDPM forgets the digit 0 with replay of five of nine classes",
    replay_images=1000,
    replay_every=2,
    score="uncovered",
    presets={**PRESETS, "fisher": {"n": 100, "timesteps": 200, "set": "replay"}},
)

# Several concepts: one after the other, each from the model after the one before, and all at once.
mnist_0_ddpm_sequence = replace(
    mnist_0_ddpm,
    name="mnist_0_ddpm_sequence",
    title="MNIST at 16 pixels, a DDPM forgets the digits 0, 1, 2 and 3 in turn",
    then=(1, 2, 3),
    relabel_to=9,
    metrics=("forget_top1", "forgotten_others", *mnist_0_ddpm.metrics[1:]),
)

mnist_0_ddpm_together = replace(
    mnist_0_ddpm_sequence,
    name="mnist_0_ddpm_together",
    title="MNIST at 16 pixels, a DDPM forgets the digits 0, 1, 2 and 3 at once",
    then=(),
    also=(1, 2, 3),
)
