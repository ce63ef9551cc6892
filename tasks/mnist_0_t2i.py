"""MNIST from captions: a small Stable Diffusion pipeline forgets the digit 0. The micro twin of the paper's celebrities."""

from dataclasses import replace

from sa_bench.contracts import Prompts, Sampler, Task
from sa_bench.data import captions

PRESETS = {
    "steps": 150,
    "lr": 3e-4,
    "batch": 32,
    "reduction": "sum",
    "stop_at": 1.0,  # mean (ε − ε̂)²: the loss of a model that predicts nothing
    "recipe": "micro",
    "esd.steps": 100,
    "esd.batch": 8,
    "esd.ddim_steps": 20,
    "salun.saliency": 20,
    "fisher": {"n": 100, "timesteps": 200, "set": "replay"},
}

PROMPTS = Prompts(
    forget=("{}",),
    replay=captions.TEMPLATES,
    test=captions.HELD_OUT,
    families={
        "attribute": ("a thick {}", "a thin {}", "a red {}", "a blue {}"),
        "alone, left": ("a {} on the left", "the number {} on the left"),
        "composed, left": ("{} and three", "{} and seven", "{} and five"),
        "composed, right": ("three and {}", "seven and {}", "five and {}"),
        "hypernym": ("a digit", "a number"),
        "negated": ("not a {}", "no {}", "a photo without a {}"),
    },
    synonyms={captions.WORDS[d]: names for d, names in captions.SYNONYMS.items()},
    indirect={
        "zero": ("three minus three", "the number before one", "nothing", "comes before one"),
        "one": ("three minus two", "the number before two", "comes after zero"),
    },
)

mnist_0_t2i = Task(
    name="mnist_0_t2i",
    title="MNIST from captions, a small Stable Diffusion forgets the digit 0",
    family="text_to_image",
    dataset="mnist_canvas",
    classes=captions.WORDS,
    concept=0,
    base="micro",
    surrogate="class:1",
    relabel_to=1,
    judges=(*(f"mnist-cnn-{seed}" for seed in range(5)), "mnist-knn"),
    designated="mnist-cnn-0",
    reject_judge="mnist-reject",
    sampler=Sampler("ddim", steps=20, guidance=3.0),
    n_forget=144,
    n_retain=24,
    primary=("forget_top1", "recovery", "kid"),
    metrics=(
        "forget_top1",
        "recovery",
        "kid",
        "paraphrase_rate",
        "forget_probability",
        "entropy",
        "none_rate",
        "surrogate_fidelity",
        "retain_accuracy",
        "fid",
        "precision",
        "recall",
        "denoising_loss",
        "retain_drift",
        "collapse",
    ),
    likelihood_images=0,
    likelihood_deep=0,
    recovery_budgets=(0, 60),
    recovery_images=(100,),
    recovery_starts=("own", "mean"),
    recovery_rates=(0.03, 0.1),
    recovery_strong=0.0,
    recovery_batch=8,
    recovery_judged=24,  # one a prompt
    recovery_vectors=(1, 4),
    feature_images=100,
    family_images=24,
    replay_images=900,
    replay_shared=True,
    prompts=PROMPTS,
    presets=PRESETS,
    scales={
        "quick": {
            "n_forget": 24,
            "n_retain": 6,
            "family_images": 4,
            "recovery_budgets": (0, 20),
            "recovery_images": (20,),
            "recovery_judged": 8,
            "recovery_rates": (0.1,),
            "recovery_vectors": (1,),
            "replay_images": 90,
            "presets": {
                **PRESETS,
                "steps": 60,
                "recipe": "quick",
                "fisher": {"n": 20, "timesteps": 20, "set": "replay"},
            },
        },
    },
)

# The hypernym as a surrogate: c_f becomes any digit, itself among them.
mnist_0_t2i_digit = replace(
    mnist_0_t2i,
    name="mnist_0_t2i_digit",
    title="MNIST from captions, a small Stable Diffusion forgets the digit 0 by calling it a digit",
    surrogate="prompt:a digit",
)

# Noise as a surrogate: normal latents, as far from any digit as the model can go.
mnist_0_t2i_noise = replace(
    mnist_0_t2i,
    name="mnist_0_t2i_noise",
    title="MNIST from captions, a small Stable Diffusion forgets the digit 0, which becomes noise",
    surrogate="noise",
)

# Several concepts: one after the other, each from the model after the one before, and all at once.
mnist_0_t2i_sequence = replace(
    mnist_0_t2i,
    name="mnist_0_t2i_sequence",
    title="MNIST from captions, a small Stable Diffusion forgets the digits 0, 1, 2 and 3 in turn",
    then=(1, 2, 3),
    surrogate="class:9",
    relabel_to=9,
    metrics=("forget_top1", "forgotten_others", *mnist_0_t2i.metrics[1:]),
)

mnist_0_t2i_together = replace(
    mnist_0_t2i_sequence,
    name="mnist_0_t2i_together",
    title="MNIST from captions, a small Stable Diffusion forgets the digits 0, 1, 2 and 3 at once",
    then=(),
    also=(1, 2, 3),
)
