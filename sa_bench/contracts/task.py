"""Define a task: the concept a base model shall forget, and how that is judged.

A task holds values only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from sa_bench.contracts.attacks import (
    Coding,
    FineTuning,
    GeneticSearch,
    PrefixEnumeration,
    PrefixSearch,
    PromptFit,
    Stress,
)
from sa_bench.contracts.keys import MOST, Count, Rate, Seed, Weight, added_later
from sa_bench.contracts.model import Condition, Sampler
from sa_bench.contracts.names import mentions

SMOKE_MODEL = "smoke"
"""Stands for the tiny random model that trials of the code use in place of a pretrained one."""


@dataclass(frozen=True)
class Prompts:
    """The prompts of a text-to-image task; `{}` stands for the name of a class."""

    forget: tuple[str, ...] = ("{}",)
    """For c_f while forgetting: the bare name, as in the official sd/configs."""
    replay: tuple[str, ...] = ("{}",)
    """For every covered class, for replay and F."""
    test: tuple[str, ...] = ("{}",)
    """For the sample sets and for the attacks that recover c_f."""
    families: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Further ways to ask for c_f, by the name of the family of prompts."""
    synonyms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Other names of a class, by class name."""
    indirect: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Prompts that describe a class without its name, by class name."""
    kept: tuple[str, ...] = added_later(())
    """The retain set's prompts as they are; () asks for every retained class by its name."""
    leakage: tuple[str, ...] = added_later(())
    """Prompts for the other classes in the sample set `leakage`."""
    captions: tuple[str, ...] = added_later(())
    """Captions of what replaces c_f, for methods that learn it in context; () uses their own."""
    names: Mapping[str, tuple[str, ...]] = added_later(dict)
    """Further words that mention a class, by class name."""
    files: Mapping[str, str] = added_later(dict, by_content=True)
    """Prompt file by role (`sa_bench.data.prompt_files`)."""
    rows: Literal["fixed", "own"] = added_later("fixed")
    """Guidance and size of a prompt file's images: `fixed` by the sampler, or each row's `own`."""
    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict, metadata={"key": False})
    """Prompts of each role's file, read when the task is validated.

    They enter no key, because `files` has the hashes of their files.
    """

    def of(self, role: str, name: str) -> list[str]:
        """Return the prompts of a role for the class `name`.

        The roles are `forget`, `replay`, `test`, `kept`, `leakage` and `captions`. If the role has
        a prompt file, the prompts of the file are returned as they are.

        Raises:
            LookupError: the task's prompt files were not read yet.
        """
        if role in self.files:
            if role not in self.texts:
                raise LookupError(
                    f"The prompts of {self.files[role]} were not read: validate the task first."
                )
            return [*self.texts[role]]
        return [template.replace("{}", name) for template in getattr(self, role)]

    def list_names(self, name: str) -> list[str]:
        """List what mentions the class `name`: itself, its other names, and prompts that stand for it while forgetting."""
        other_names = (*self.synonyms.get(name, ()), *self.names.get(name, ()))
        return [name, *other_names, *(text for text in self.forget if "{}" not in text)]


NO_PROMPTS = Prompts()

Index = Annotated[int, Field(ge=0)]
Amount = Annotated[int, Field(ge=0, le=MOST)]
"""A number that may be 0; what 0 means stands at the field."""
Images = Annotated[int, Field(ge=1, le=10**6)]
"""Images of a sample set or of a class of it, each of which a plan lists."""
Start = Literal["own", "mean", "zero"]
OneOrMore = Field(min_length=1)


@dataclass(frozen=True, kw_only=True)
class Task:
    """A base model, a concept and an evaluation protocol, as values only.

    A range that concerns one field alone stands at the field; `sa_bench.engine.validation` checks
    what relates fields to each other.
    """

    # What the task is.

    name: str
    title: str
    family: str
    """The model family: a module of `sa_bench.models.families`."""
    dataset: str
    classes: tuple[str, ...]
    concept: Index
    """c_f, an index into `classes`."""
    open: bool = added_later(False)
    """Whether any text may be the concept."""
    also: tuple[Index, ...] = added_later(())
    """Further concepts, forgotten together with c_f."""
    then: tuple[Index, ...] = added_later(())
    """Further concepts, forgotten after c_f one by one, each from the model after the one before."""
    gone: tuple[Index, ...] = added_later(())
    """What the base model has forgotten already: in the later steps of a sequence."""

    # The base model.

    base: str
    """Name of the base model's recipe."""
    model: str = added_later("")
    """Pretrained base model: a folder, a weight file, a hub id or `smoke`; "" for none."""
    size: Amount = added_later(0)
    """Side of a pretrained model's images, in pixels."""
    train_precision: Literal["auto", "fp32", "bf16"] = added_later("auto")
    """Precision of training, for base model and method; see sa_bench.training.precision."""

    # What methods learn from.

    surrogate: str
    """q(x|c_f): `noise`, `class:<c>`, `prompt:<text>` or `folder:<path>`."""
    surrogate_images: Amount = added_later(0)
    """Images in a fixed surrogate set; 0 takes as many as replay has per class, at least 100."""
    relabel_to: Index
    """The class whose condition the control `relabel` copies over c_f's."""
    replay_images: Amount = 0
    """Size of a fixed replay set of samples of θ*; 0 draws new ones each time."""
    replay_used: Amount = added_later(0)
    """How many of a fixed replay set, from its start, are trained on; 0 takes all."""
    replay_shared: bool = added_later(False)
    """Whether a fixed replay set is the same for every forgetting seed."""
    replay_every: Count = 1
    """Replay covers every k-th retained class only."""

    # Which images are drawn.

    sampler: Sampler
    prompts: Prompts | None = added_later(None)
    """Prompts of a text-to-image task; None for a class-conditional model."""
    n_forget: Images
    """Images of c_f."""
    n_retain: Images
    """Images of each retained class."""
    family_images: Amount = added_later(0)
    """Images per family of further prompts."""
    leakage_images: Amount = added_later(0)
    """Images per other class in the sample set `leakage`."""
    sample_seed: Seed = added_later(0)
    """Another seed draws other images, from the same models, for every measurement."""
    keep_images: bool = added_later(True)
    """False deletes images of c_f once they are measured."""

    # How they are judged.

    judges: tuple[str, ...]
    """The panel of judges."""
    designated: str
    """Judge whose features the feature-space metrics use."""
    reject_judge: str
    """Judge with a score for `none of the classes`."""
    primary: tuple[str, ...]
    """Endpoints: forgetting, recovery, retention; fixed before any result was seen."""
    metrics: tuple[str, ...]
    gate: float = added_later(0.0)
    """c_f counts as forgotten at this rate or less; 0 takes chance, 1 / number of classes."""
    score: Literal["retain", "uncovered"] = "retain"
    """The classes that retention is measured on."""
    likelihood_images: Amount
    """Real images per class for log p̂ at K = 50; 0 takes all."""
    likelihood_deep: Amount
    """Real images per class for log p̂ at K = 5,000; 0 skips it."""
    feature_images: Amount
    """Real images per scored class for FID, KID, precision, recall; 0 takes all."""
    bound_images: Count = added_later(20)
    """Real images per class for the VLB and the denoising loss."""
    bound_steps: Count = added_later(40)
    """Timesteps per image."""

    # The attack that recovers c_f.

    recovery_budgets: Annotated[tuple[Amount, ...], OneOrMore]
    """Steps at which recovery is judged, ascending."""
    recovery_images: Annotated[tuple[Count, ...], OneOrMore]
    """How many real images of c_f the attacker has."""
    recovery_starts: Annotated[tuple[Start, ...], OneOrMore] = added_later(("own", "mean", "zero"))
    """Where the attacker starts."""
    recovery_rates: Annotated[tuple[Rate, ...], OneOrMore] = added_later((0.003, 0.01))
    """Adam's learning rates, the endpoint's grid."""
    recovery_strong: Weight = added_later(0.1)
    """Learning rate reported beside the endpoint; 0 for none."""
    recovery_batch: Amount = added_later(0)
    """Images per step; 0 takes all."""
    recovery_accumulated: Count = added_later(1)
    """Batches whose gradients are averaged before a step."""
    recovery_judged: Count = added_later(200)
    """Images judged at each point of the grid."""
    recovery_vectors: Annotated[tuple[Count, ...], OneOrMore] = added_later((1,))
    """Numbers of new vectors that replace c_f's name, for a text-to-image model."""

    # What the further attacks may spend.

    relearn: FineTuning = added_later(FineTuning())
    """Budget of relearning c_f from its images."""
    resurgence: FineTuning = added_later(FineTuning(steps=(0, 20, 40)))
    """Budget of fine-tuning on what is retained."""
    stress: Stress = added_later(Stress())
    """What the weights go through."""
    coding: Coding = added_later(Coding())
    """How images of c_f are coded."""
    prompt_attack: PrefixSearch = added_later(PrefixSearch())
    """Budget of the search for words before a prompt."""
    exhaustive_prompt: PrefixEnumeration = added_later(PrefixEnumeration())
    """Budget of trying every two words before a prompt."""
    ring_a_bell: GeneticSearch = added_later(GeneticSearch())
    """Budget of the genetic search for prompts."""
    p4d: PromptFit = added_later(PromptFit())
    """Budget of fitting prompts."""

    # What changes with method and scale.

    presets: Mapping[str, Any] = field(default_factory=dict)
    """Values of methods' fields: `field` for every method that has it, `method.field` for one."""
    scales: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Fields that differ at a scale, by scale."""

    @property
    def needs_weights(self) -> bool:
        """True if the base model is weights of others, which must be on this machine first."""
        return self.model not in ("", SMOKE_MODEL)

    @property
    def prompt_options(self) -> Prompts:
        """The task's prompts; without any, for a class-conditional model, those that ask nothing."""
        return self.prompts or NO_PROMPTS

    def prompt_key_inputs(self, name: str, texts: Sequence[Condition]) -> dict[str, Any]:
        """Return the key input `name` of an artifact that was made from `texts`.

        Returns:
            {} for a class-conditional model: the indices of its classes are in the key already.
        """
        return {} if self.prompts is None else {name: texts}

    @property
    def concepts(self) -> tuple[int, ...]:
        """Indices of the concepts that are forgotten together: c_f and `also`."""
        return (self.concept, *self.also)

    @property
    def retain(self) -> tuple[int, ...]:
        """Indices of all retained classes: those that are forgotten neither now nor before or later."""
        forgotten = {*self.concepts, *self.then, *self.gone}
        return tuple(c for c in range(len(self.classes)) if c not in forgotten)

    @property
    def absent(self) -> tuple[int, ...]:
        """Indices of the classes that are not retained."""
        return tuple(c for c in range(len(self.classes)) if c not in self.retain)

    def prompts_for(self, c: int, role: str = "test") -> list[Condition]:
        """Return the conditions that ask for class `c` in a prompt role.

        They are its index or, for a text-to-image model, the prompts of the role.
        """
        return [c] if self.prompts is None else [*self.prompts.of(role, self.classes[c])]

    def conditions_of_concepts(self) -> list[Condition]:
        """Return the conditions that ask for c_f, or any of `concepts`, while forgetting."""
        return [condition for c in self.concepts for condition in self.prompts_for(c, "forget")]

    def replay_conditions(self) -> list[Condition]:
        """Return the conditions of replay, in turn.

        They are those of every covered class, or the replay prompts as they are, without those that
        mention c_f.
        """
        if self.prompts is not None and self.retains_prompts:
            return [
                prompt
                for prompt in self.prompts.of("replay", "")
                if not self.mentions_concept(prompt)
            ]
        by_class = [self.prompts_for(c, "replay") for c in self.covered]
        return [condition for turn in zip(*by_class, strict=True) for condition in turn]

    def mentions_concept(self, prompt: str) -> bool:
        """Return whether a prompt mentions c_f, which no prompt of what is retained may do.

        It mentions c_f by the name of its class, by its other names, or by a prompt that stands for
        it while forgetting, however they are written.
        """
        return mentions(prompt, self.prompt_options.list_names(self.classes[self.concept]))

    @property
    def retains_prompts(self) -> bool:
        """True if the retained conditions are prompts that name no class."""
        return self.prompts is not None and bool(self.prompts.kept or "kept" in self.prompts.files)

    @property
    def anchor(self) -> Condition:
        """Condition that replaces c_f in methods that map it onto another one.

        It is the surrogate's class or prompt. Without one it is the null condition, or, for a
        class-conditional model, the class `relabel_to`.
        """
        kind, _, argument = self.surrogate.partition(":")
        if kind == "prompt":
            return argument
        c = int(argument) if kind == "class" else self.relabel_to
        return c if self.prompts is None else self.classes[c] if kind == "class" else ""

    @property
    def covered(self) -> tuple[int, ...]:
        """Retained classes that replay shows."""
        return self.retain[:: self.replay_every]

    @property
    def scored(self) -> tuple[int, ...]:
        """Retained classes on which retention is measured."""
        if self.score == "retain":
            return self.retain
        return tuple(c for c in self.retain if c not in self.covered)
