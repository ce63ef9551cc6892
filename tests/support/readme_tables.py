"""The README's tables of methods, tasks and metrics, made from the registry: `python tests/support/readme_tables.py`."""

import tempfile
from pathlib import Path

from sa_bench.commands import plan, stage_times
from sa_bench.core import registry
from sa_bench.core.family_contracts import read_contracts
from sa_bench.engine.cells import resolve
from sa_bench.engine.rates import NOTHING

FAMILIES = {"vae": "VAE", "ddpm": "DDPM", "text_to_image": "text-to-image"}
ON_A_LAPTOP = ("mnist_0", "mnist_0_ddpm", "mnist_0_t2i")
QUESTIONS = {
    "Is it still shown?": (
        "forget_top1 forget_probability entropy none_rate surrogate_fidelity surrogate_kid forget_bound "
        "forget_log_likelihood clip_concept_rate celebrity_score identity_similarity no_face_rate nudity "
        "forgotten_others"
    ),
    "Is it shown when asked in another way?": "paraphrase_rate probe_conditions probe_denoising",
    "Is there a prompt that shows it?": "prompt_attack ring_a_bell p4d exhaustive_prompt",
    "Does it come back?": (
        "recovery recovery_excess transplant relearn resurgence stress probe_inversion bits_left bits_left_weights"
    ),
    "Is the rest kept?": (
        "retain_accuracy retain_log_likelihood retain_bound denoising_loss kid fid precision recall inception_kid "
        "inception_fid inception_precision inception_recall inception_kid_to_base clip_score lpips retain_drift "
        "guidance_curve weights_changed official_fid official_precision official_recall"
    ),
    "Or is all of it a wreck?": "collapse collapse_prompts",
}


def methods_table():
    rows = [f"| method | {' | '.join(FAMILIES.values())} | what it is |", "|---|---|---|---|---|"]
    order = ("method", "reference", "target", "control")
    entries = sorted(registry.list_entries("method"), key=lambda e: order.index(e.standing))
    for entry in entries:
        marks = ["✓" if entry.supports in read_contracts()[f] else "" for f in FAMILIES]
        what = entry.summary.replace("`", "").rstrip(".")
        rows.append(f"| `{entry.name}` | {' | '.join(marks)} | {what} |")
    return "\n".join(rows)


def minutes(task, scale):
    """Minutes of one CPU core that `sa` takes on an empty store, by the shipped rates at their machine's speed."""
    _, stages = plan.make_plan(resolve([task], ["sa"], scale), 1)
    seconds = sum((s.seconds or NOTHING).middle for planned in stages.values() for s in planned)
    return f"{seconds / 60:.1f}"


def tasks_table():
    rows = ["| task | model | `sa` at `quick` | `sa` at `full` |", "|---|---|---|---|"]
    for name in ON_A_LAPTOP:
        title = registry.get_task(name).title
        rows.append(f"| `{name}` | {title} | {minutes(name, 'quick')} | {minutes(name, 'full')} |")
    return "\n".join(rows)


def metrics_table():
    rows = ["| question | metrics |", "|---|---|"]
    for question, names in QUESTIONS.items():
        rows.append(f"| {question} | {', '.join(f'`{name}`' for name in names.split())} |")
    return "\n".join(rows)


def on_the_boards_machine(patch):
    """Let plans start from an empty store, at the speed at which the shipped rates were measured."""
    patch(stage_times, "_probe_machine", lambda: stage_times.rates_card()["speed"])


if __name__ == "__main__":
    import os

    os.environ["SA_BENCH_STORE"] = tempfile.mkdtemp()
    on_the_boards_machine(setattr)
    text = Path("README.md").read_text()
    for made in (methods_table(), tasks_table(), metrics_table()):
        head = made.splitlines()[0]
        old = text[text.index(head) :].partition("\n\n")[0]
        text = text.replace(old, made)
    Path("README.md").write_text(text)
