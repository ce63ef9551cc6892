"""MNIST: a conditional VAE forgets the digit 0 (paper, Section 4.1 and Appendix B.1)."""

from dataclasses import replace

from sa_bench.contracts import Sampler, Task

mnist_0 = Task(
    name="mnist_0",
    title="MNIST, a VAE forgets the digit 0",
    family="vae",
    dataset="mnist",
    classes=("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    concept=0,
    base="cosine",
    surrogate="noise",
    relabel_to=1,
    judges=(
        *(f"mnist-cnn-{seed}" for seed in range(5)),
        "mnist-paper",
        "mnist-knn",
    ),
    designated="mnist-cnn-0",
    reject_judge="mnist-reject",
    sampler=Sampler(),
    n_forget=500,
    n_retain=200,
    primary=("forget_top1", "recovery", "retain_log_likelihood"),
    metrics=(
        "forget_top1",
        "recovery",
        "retain_log_likelihood",
        "forget_probability",
        "entropy",
        "none_rate",
        "surrogate_fidelity",
        "forget_log_likelihood",
        "retain_accuracy",
        "collapse",
        "kid",
        "fid",
        "precision",
        "recall",
        "retain_drift",
    ),
    likelihood_images=200,
    likelihood_deep=5,
    recovery_budgets=(0, 10, 30, 100),
    recovery_images=(10, 100),
    feature_images=200,
    scales={
        "quick": {
            "n_forget": 200,
            "n_retain": 50,
            "likelihood_images": 100,
            "likelihood_deep": 0,
            "recovery_budgets": (0, 30, 100),
            "recovery_images": (100,),
            "feature_images": 100,
        },
        # As published: the paper's base, three classifiers of its recipe (the paper had one), and 1,000 images of the
        # digit.
        "paper": {
            "base": "paper",
            "n_forget": 1000,
            "designated": "mnist-paper",
            "judges": ("mnist-paper", "mnist-paper-2", "mnist-paper-3"),
        },
    },
)

# The paper's real budget for Stable Diffusion: replay is 1,000 images, drawn once, and F is taken from them.
mnist_0_r1000 = replace(
    mnist_0,
    name="mnist_0_r1000",
    title="MNIST, a VAE forgets the digit 0 with 1,000 replay images",
    replay_images=1000,
    likelihood_deep=0,
    recovery_images=(100,),
    presets={"fisher": {"set": "replay"}},
)

# Replay prompts never cover all that a model knows: here five of nine classes, and the others are scored.
mnist_0_cover5 = replace(
    mnist_0,
    name="mnist_0_cover5",
    title="MNIST, a VAE forgets the digit 0 with replay of five of nine classes",
    replay_every=2,
    score="uncovered",
    likelihood_deep=0,
    recovery_images=(100,),
    presets={"fisher": {"set": "replay"}},
)

# Several concepts: one after the other, each from the model after the one before, and all at once.
mnist_0_sequence = replace(
    mnist_0,
    name="mnist_0_sequence",
    title="MNIST, a VAE forgets the digits 0, 1, 2 and 3 in turn",
    then=(1, 2, 3),
    relabel_to=9,
    metrics=("forget_top1", "forgotten_others", *mnist_0.metrics[1:]),
    likelihood_deep=0,
    recovery_images=(100,),
)

mnist_0_together = replace(
    mnist_0_sequence,
    name="mnist_0_together",
    title="MNIST, a VAE forgets the digits 0, 1, 2 and 3 at once",
    then=(),
    also=(1, 2, 3),
)
