"""Validate a resolved task and method before any work: values, names and files."""

from __future__ import annotations

import difflib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from sa_bench.contracts import SMOKE_MODEL, Method, Prompted, Task
from sa_bench.contracts.names import is_same_name, split_words
from sa_bench.core import registry
from sa_bench.core.declarations import read_requirements
from sa_bench.core.errors import SaBenchError, unknown_name
from sa_bench.data.assets.shipped import guard_card
from sa_bench.models import schedule
from sa_bench.models.family import get_family
from sa_bench.scoring.cards import judge_card, require_bar, require_sight


def with_concept(task: Task, value: Any) -> Task:
    """Give an open task another concept: any text takes the place of the first class's name.

    Raises:
        SaBenchError: the text is empty, or is another of the task's names.
    """
    text = " ".join(str(value).split())
    if not split_words(text) or any(is_same_name(text, name) for name in task.classes[1:]):
        raise SaBenchError(
            f"task.concept={value!r}: give the words that name what is to be forgotten."
        )
    default = task.classes[0]
    if is_same_name(text, default):  # one name, however it is written
        return task
    letters, default_letters = "".join(split_words(text)), "".join(split_words(default))
    if difflib.get_close_matches(letters, [default_letters], cutoff=0.85):
        raise SaBenchError(
            f"task.concept={value!r} is nearly {default!r}, which {task.name} forgets: leave it out, or write it so; "
            "for another concept take words that are less alike."
        )
    return replace(task, classes=(text, *task.classes[1:]))


def with_names(task: Task, names: Any) -> Task:
    """Give an open task other names: first the concept, then those that the set `leakage` asks for.

    Raises:
        SaBenchError: a name has no words or is there twice, or the first is refused as a concept.
    """
    if (
        isinstance(names, str)
        or not names
        or not all(isinstance(n, str) and split_words(n) for n in names)
    ):
        raise SaBenchError(
            f'task.classes={names!r}: give names, the one to be forgotten first, e.g. ["brad pitt", "Tom Hanks"].'
        )
    concept, *others = [" ".join(name.split()) for name in names]
    for i, name in enumerate(others):
        if any(is_same_name(name, other) for other in (concept, *others[:i])):
            raise SaBenchError(f"task.classes: {name!r} is there twice; remove one.")
    task = replace(
        task, classes=(task.classes[0], *others), relabel_to=min(task.relabel_to, len(others))
    )
    return with_concept(task, concept)


def class_index(task: Task, value: Any) -> int:
    """Find the index of a class given by index or name.

    Raises:
        SaBenchError: it is neither; lists the classes.
    """
    text = str(value).strip()
    for index, name in enumerate(task.classes):
        if is_same_name(text, name):
            return index
    if text.isdecimal() and int(text) < len(task.classes):
        return int(text)
    listing = ", ".join(f"{i} {n}" for i, n in enumerate(task.classes))
    raise SaBenchError(f"{task.name} has no class {value!r}. Available: {listing}.")


def validate_task(task: Task, relabel_given: bool = False, size_given: bool = False) -> Task:
    """Check a task's values and its surrogate, and return the completed task, before any work.

    Raises:
        SaBenchError: a value is out of range or unreadable; names the field.
    """
    if task.relabel_to == task.concept and len(task.classes) > 1:
        if relabel_given:
            raise SaBenchError("task.relabel_to is the concept itself; name another class.")
        task = replace(task, relabel_to=(task.concept + 1) % len(task.classes))
    task = _check_several(task)
    if list(task.recovery_budgets) != sorted(set(task.recovery_budgets)):
        raise SaBenchError("task.recovery_budgets must ascend, e.g. 0,30,100.")
    for name in ("relearn", "resurgence"):
        steps = getattr(task, name).steps
        if list(steps) != sorted(set(steps)) or steps[0] != 0:
            raise SaBenchError(f"task.{name}.steps must begin with 0 and ascend, e.g. 0,20,80.")
    if len(set(task.primary)) != 3:
        raise SaBenchError(
            "task.primary needs three metrics, for forgetting, recovery and retention; task.metrics says what is measured."
        )
    for name in task.primary:
        registry.find("metric", name)
    if "forgetting" in read_requirements(task.primary[0]):
        raise SaBenchError(
            f"task.primary: {task.primary[0]} needs a forgetting endpoint, so it cannot be the first."
        )
    _check_sampler(task)
    prompts = task.prompt_options
    if prompts.files:
        from sa_bench.data import prompt_files

        files = prompt_files.name_files(prompts.files, vars(prompts))
        task = prompt_files.with_texts(replace(task, prompts=replace(prompts, files=files)))
    if task.model:
        task = _check_pretrained(task, size_given)
    elif not task.base:
        raise SaBenchError(
            "task.model is empty: give a diffusers folder, a weight file, a hub id, or smoke."
        )
    if not (task.scored or task.retains_prompts):
        raise SaBenchError(
            f"task.replay_every={task.replay_every} with task.score={task.score} leaves no class to score; "
            "use replay_every=2 or more for score=uncovered."
        )
    if task.replay_images and not task.retains_prompts and task.replay_images < len(task.covered):
        raise SaBenchError(
            f"task.replay_images={task.replay_images}: at least one for each of the {len(task.covered)} classes "
            "that replay covers, or 0 for fresh samples."
        )
    if task.replay_used > task.replay_images:
        raise SaBenchError(
            f"task.replay_used={task.replay_used}: from 0 (all) to the set's own task.replay_images={task.replay_images}."
        )
    takes_prompts = task.prompts is not None
    if takes_prompts:
        if Prompted not in get_family(task.family).contracts:
            raise SaBenchError(
                f"task.prompts: {task.name} asks a {task.family} for classes; prompts are for text-to-image models."
            )
        _check_prompts(task)
    for name in filter(None, (*task.judges, task.designated, task.reject_judge)):
        require_bar(judge_card(name))
        require_sight(name, task.dataset)
    if task.judges and task.designated not in task.judges:
        raise SaBenchError(f"task.designated={task.designated} is not in task.judges.")
    for name in task.metrics:
        registry.find("metric", name)
    if "collapse" in task.metrics:
        guard_card(task.dataset)
    kind, _, argument = task.surrogate.partition(":")
    if kind == "class":
        other = class_index(task, argument)
        if other == task.concept:
            raise SaBenchError("task.surrogate is the concept itself; name another class.")
        task = replace(task, surrogate=f"class:{other}")
    elif kind == "folder":
        if not Path(argument).is_dir():
            raise SaBenchError(f"task.surrogate: no folder at {argument!r}.")
        from sa_bench.data import datasets, images  # load numpy, so only where they are needed

        height, width, channels = datasets.image_shape(task)
        # An unsuitable image is refused here, before any work.
        images.read_folder(Path(argument), channels, (height, width))
        task = replace(task, surrogate=f"folder:{Path(argument).resolve()}")
    elif kind == "prompt" and takes_prompts and argument.strip():
        pass
    elif takes_prompts and kind.strip() and not argument and kind != "noise":
        task = replace(task, surrogate=f"prompt:{kind.strip()}")  # words alone
    elif task.surrogate != "noise":
        prompt = ["prompt:<text>"] if takes_prompts else []
        raise unknown_name(
            "surrogate", task.surrogate, ["noise", "class:<name>", *prompt, "folder:<path>"]
        )
    return task


def _check_several(task: Task) -> Task:
    """Check that no concept of a task with several is named twice, learned from or copied.

    Returns:
        The task, with a retained class as `relabel_to`.
    """
    concepts = (*task.concepts, *task.then)
    if len(concepts) == 1:
        return task
    if task.also and task.then:
        raise SaBenchError("task.also and task.then: give one, concepts at once or in turn.")
    if twice := [c for i, c in enumerate(concepts) if c in concepts[:i]]:
        name = task.classes[twice[0]]
        raise SaBenchError(f"task.also, task.then: {name} is forgotten twice; name it once.")
    if task.model:
        raise SaBenchError(
            f"task.also, task.then: {task.name} has no further classes to forget; use a task of digits."
        )
    if max(concepts) >= len(task.classes) or not task.retain:
        raise SaBenchError(
            f"task.also, task.then: {task.name} has {len(task.classes)} classes, of which some must be retained."
        )
    surrogate = task.surrogate.removeprefix("class:")
    if surrogate != task.surrogate and class_index(task, surrogate) in concepts:
        other = task.classes[task.retain[-1]]
        raise SaBenchError(
            f"task.surrogate={task.surrogate} is forgotten too; --set task.surrogate=class:{other}."
        )
    kept = task.relabel_to if task.relabel_to in task.retain else task.retain[-1]
    return replace(task, relabel_to=kept)


def _check_prompts(task: Task) -> None:
    """Check that every role has a prompt, and that `{}` is the only placeholder in templates."""
    prompts, c_f = task.prompt_options, task.concept
    prompts_of_role = {
        "test": task.prompts_for(c_f),
        "forget": task.prompts_for(c_f, "forget"),
        "replay": task.replay_conditions(),
    }
    if task.retains_prompts:
        prompts_of_role["kept"] = [
            text for text in prompts.of("kept", "") if not task.mentions_concept(text)
        ]
    if task.leakage_images and not task.retain:
        raise SaBenchError(
            f"task.leakage_images={task.leakage_images}: {task.name} has no name beside {task.classes[c_f]}; give some with "
            "task.classes, or set 0."
        )
    if task.leakage_images:
        prompts_of_role["leakage"] = task.prompts_for(task.retain[0], "leakage")
        if without_name := [
            text for text in prompts.leakage if "leakage" not in prompts.files and "{}" not in text
        ]:
            raise SaBenchError(
                f"task.prompts.leakage: {without_name[0]!r} has no {{}}, which stands for the name; add it."
            )
    for role, texts in prompts_of_role.items():
        if not texts:
            exception = (
                f" that does not name {task.classes[c_f]}" if role in ("replay", "kept") else ""
            )
            raise SaBenchError(f"task.prompts.{role} has no prompt{exception}; give one or more.")
        templates = () if role in prompts.files else getattr(prompts, role)
        if malformed := next(
            (text for text in templates if re.search("[{}]", text.replace("{}", ""))), None
        ):
            raise SaBenchError(f"task.prompts.{role}: {malformed!r}: only {{}} stands for a name.")
    if prompts.rows == "own" and task.model != SMOKE_MODEL:
        for role in prompts.files:
            _check_sizes(task, role)


def _check_sizes(task: Task, role: str) -> None:
    """Refuse a prompt file's row whose image is larger than the task's: it would be cut off."""
    from sa_bench.data import prompt_files

    rows = prompt_files.read_rows(task.prompt_options.files[role])
    for number, row in enumerate(rows, 1):
        if row.size is not None and max(row.size) > task.size:
            high, wide = row.size
            raise SaBenchError(
                f"task.prompts.rows=own: prompt {number} of {role} asks for {wide} x {high}, more than "
                f"task.size={task.size}; --set task.size={max(max(r.size) for r in rows if r.size)}."
            )


def _check_pretrained(task: Task, size_given: bool) -> Task:
    """Check what only a task on a pretrained model can get wrong.

    Returns:
        The task, with the model's own image size where its folder gives one.
    """
    if not get_family(task.family).opens_checkpoints:
        raise SaBenchError(
            f"task.model={task.model}: {task.name} trains its own base, of the family {task.family}."
        )
    if task.size < 8 or task.size % 8:
        near = max(8, round(task.size / 8) * 8)
        raise SaBenchError(
            f"task.size={task.size}: images of Stable Diffusion have sides of whole eights, e.g. {near}."
        )
    from sa_bench.models import base_models  # loads numpy, so only where it is needed

    if task.needs_weights:
        from sa_bench.models.checkpoints import layouts

        kind = layouts.layout(task.model)
        if kind not in ("pipeline", "single", "hub"):
            raise SaBenchError(
                f"task.model={task.model} is no whole model but a {kind}; give the base here, "
                "and measure this with --method checkpoint --set checkpoint.path=…"
            )
    if not task.replay_images:
        raise SaBenchError(
            "task.replay_images=0: new samples at every step would take days; give 1 or more."
        )
    check_steps(task.sampler.steps, base_models.timestep_spacing(task.model))
    side = base_models.image_side(task.model)
    if side and side != task.size and size_given:
        raise SaBenchError(
            f"task.size={task.size}: {task.model} makes images of {side} pixels a side; leave it out."
        )
    return replace(task, size=side or task.size)


def check_fit(method: Method[Any], name: str, task: Task) -> None:
    """Refuse a method that cannot run on the task.

    Raises:
        SaBenchError: the method is for another family, its scope is one that the family lacks or
            that the F it asks for does not cover, or the method says that it is unfit.
    """
    family, supports = get_family(task.family), method.supports
    if supports not in family.contracts:
        needed = "a text-to-image model" if supports is Prompted else "a diffusion model"
        raise SaBenchError(f"The method {name} needs {needed}; {task.name} has a {task.family}.")
    scope = method.scope
    if scope not in (scopes := family.list_scopes()):
        raise SaBenchError(
            f"{name}.scope={scope}: a {task.family}, as {task.name} has, can be trained in {', '.join(scopes)}."
        )
    if method.fishers() and scope not in (covered := family.list_fisher_scopes()):
        raise SaBenchError(
            f"{name}.scope={scope}: F covers the U-Net alone, and would not hold the text encoder; take one of "
            f"{', '.join(covered)}."
        )
    if task.also and not method.several:
        raise SaBenchError(
            f"{name} forgets one concept at a time, {task.name} {len(task.concepts)} at once; take a task with "
            "task.then, which forgets them in turn."
        )
    if task.then and (type(method).wraps() or type(method).renders()):
        raise SaBenchError(
            f"{name} acts while a model is asked, so that it has no model for the next concept of {task.name}."
        )
    if why := method.unfit(task):
        raise SaBenchError(f"{name} on {task.name}: {why}.")


def check_standing(method: type[Method[Any]], name: str, task: Task, base_seed: int) -> None:
    """Refuse what a pretrained base cannot do: be trained again, or have a second seed.

    Raises:
        SaBenchError: the method or the seed asks for it.
    """
    if not task.model:
        return
    if "data" in method.needs:
        raise SaBenchError(
            f"{name} needs the data that {task.model} was trained on, which the suite does not have; "
            "choose another method or a task that trains its own base."
        )
    if base_seed:
        raise SaBenchError(
            f"--base-seed {base_seed}: {task.name} has one base model, {task.model}; use 0."
        )


def _check_sampler(task: Task) -> None:
    """Check the sampler's scheduler, guidance, steps and precision."""
    sampler, family = task.sampler, get_family(task.family)
    if sampler.scheduler not in family.schedulers:
        raise unknown_name("scheduler", sampler.scheduler, family.schedulers)
    if not 1 <= sampler.steps <= family.most_steps:
        raise SaBenchError(
            f"task.sampler.steps={sampler.steps}: {task.name} samples in 1 to {family.most_steps} steps."
        )
    if family.spacing is not None and not task.model:
        check_steps(sampler.steps, family.spacing)
    if sampler.precision not in family.precisions:
        raise SaBenchError(
            f"task.sampler.precision={sampler.precision} is a setting of diffusion models; {task.name} has a "
            f"{family.title}: leave it out."
        )


def check_steps(steps: int, spacing: tuple[str, int]) -> None:
    """Refuse a number of sampling steps that the spacing of timesteps does not allow.

    Args:
        steps: number of sampling steps.
        spacing: name of the spacing, and its offset.

    Raises:
        SaBenchError: the number is not possible; names the nearest possible ones.
    """
    if fault := schedule.fault(*spacing, steps):
        raise SaBenchError(f"task.sampler.steps={steps}: {fault}.")


def check_precision(task: Task, device: str) -> None:
    """Refuse a sampler's precision that the device cannot compute in, before any work.

    Raises:
        SaBenchError: fp16 on a CPU.
    """
    if device == "cpu" and task.sampler.precision == "fp16":
        raise SaBenchError(
            f"task.sampler.precision=fp16: {task.name} needs a GPU for it (--device cuda); on a CPU set fp32 or bf16."
        )


def check_fisher(method: Method[Any], task: Task, what: str) -> None:
    """Refuse options of F or timesteps that mean nothing for the task's family, before any work.

    Args:
        method: the method with its fields.
        task: the task.
        what: name of the method, for errors.

    Raises:
        SaBenchError: an option does not apply; names it.
    """
    family = get_family(task.family)
    if not family.has_timesteps and method.times != "pairs":
        raise SaBenchError(
            f"{what}: times={method.times} is a setting of diffusion models; {task.name} has no timesteps: leave it out."
        )
    for name, options in method.fishers().items():
        if not family.has_timesteps and (
            options.timesteps or options.range != "model" or options.drop
        ):
            raise SaBenchError(
                f"{what}: {name}.timesteps, {name}.range and {name}.drop are settings of diffusion "
                f"models; {task.name} has a {family.title}: "
                "leave them out."
            )
        if options.targets not in family.fisher_targets:
            raise SaBenchError(
                f"{what}: {name}.targets={options.targets} is a setting of VAEs; use {name}.targets=means."
            )
        if task.retains_prompts and options.set not in ("replay", "concept"):
            raise SaBenchError(
                f"{what}: {name}.set={options.set}: {task.name} has no classes to sample; use {name}.set=replay."
            )
        if options.draws == "once" and not (
            options.set == "replay" and options.n <= task.replay_images
        ):
            raise SaBenchError(
                f"{what}: {name}.draws=once needs {name}.set=replay and a fixed set of at least {name}.n={options.n} "
                f"samples; task.replay_images={task.replay_images}."
            )
        if options.timesteps > 1000:
            raise SaBenchError(
                f"{what}: {name}.timesteps={options.timesteps}: there are 1,000; 0 takes all."
            )
