"""What a task says: which concept a base model shall forget, how it is asked for, and how that is judged. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sa_bench.contracts.keys import Seed, added_later
from sa_bench.contracts.model import Condition, Sampler
from sa_bench.contracts.names import mentions

SMOKE_MODEL = (
    "smoke"  # in place of a pretrained model: the tiny random one that trials of the code use
)


@dataclass(frozen=True)
class Prompts:
    """What a text-to-image model is asked; `{}` stands for the name of a class."""

    forget: tuple[str, ...] = (
        "{}",
    )  # c_f while forgetting; the bare name, as in the official sd/configs
    replay: tuple[str, ...] = ("{}",)  # every covered class, for replay and F
    test: tuple[str, ...] = ("{}",)  # the sample sets, and whoever tries to get c_f back
    families: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Further ways to ask for c_f."""
    synonyms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Other names, by class name."""
    indirect: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Questions without the name, by class name."""
    kept: tuple[str, ...] = added_later(())
    """The retain set's prompts as they stand; (): every retained class by its name."""
    leakage: tuple[str, ...] = added_later(())
    """How the other classes are asked for, in the set `leakage`."""
    captions: tuple[str, ...] = added_later(())
    """Of what c_f becomes, for methods that learn from it in company; (): their own."""
    names: Mapping[str, tuple[str, ...]] = added_later(dict)
    """Further words that name a class, by class name."""
    files: Mapping[str, str] = added_later(dict)  # role -> prompt file (sa_bench.data.prompt_files)
    rows: Literal["fixed", "own"] = added_later("fixed")
    """A file's guidance and size: the sampler's, or each row's own."""
    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict, metadata={"key": False})
    """Role to the prompts of its file, read when the task is validated; `files` has their hashes, so no key has them."""

    def of(self, role: str, name: str) -> list[str]:
        """The prompts of a role (`forget`, `replay`, `test`, `kept`, `leakage`, `captions`) for the class `name`.

        Those of the role's file as they stand, where there is one.

        Raises:
            LookupError: the task's files were not read yet.
        """
        if role in self.files:
            if role not in self.texts:
                raise LookupError(
                    f"The prompts of {self.files[role]} were not read: validate the task first."
                )
            return [*self.texts[role]]
        return [template.replace("{}", name) for template in getattr(self, role)]


@dataclass(frozen=True)
class Task:
    """Values only: base model + concept + evaluation protocol."""

    name: str
    title: str
    family: str  # which Generator: `vae`
    dataset: str
    classes: tuple[str, ...]
    concept: int  # c_f, an index into `classes`
    base: str  # recipe of the base model
    surrogate: str  # q(x|c_f): `noise`, `class:<c>` or `folder:<path>`
    relabel_to: int  # the class whose condition the control `relabel` copies over c_f's
    judges: tuple[str, ...]  # the panel
    designated: str  # the judge whose features feature-space metrics use
    reject_judge: str  # the judge with a `none of the classes` score
    sampler: Sampler
    n_forget: int  # images of c_f
    n_retain: int  # images of each retained class
    primary: tuple[str, ...]  # forgetting, recovery, retention; fixed before looking
    metrics: tuple[str, ...]
    likelihood_images: int  # real images a class for log p̂ at K = 50; 0: all
    likelihood_deep: int  # real images a class for log p̂ at K = 5,000; 0: skip
    recovery_budgets: tuple[int, ...]  # steps at which recovery is judged
    recovery_images: tuple[int, ...]  # how many real images of c_f the attacker has
    feature_images: int  # real images a scored class for FID, KID, precision and recall; 0: all
    replay_images: int = 0  # a fixed replay set of so many samples of θ*; 0: new ones each time
    replay_every: int = 1  # replay covers every k-th retained class only
    score: Literal["retain", "uncovered"] = "retain"  # the classes that retention is measured on
    recovery_starts: tuple[str, ...] = added_later(("own", "mean", "zero"))
    """Where the attacker begins."""
    recovery_rates: tuple[float, ...] = added_later((0.003, 0.01))  # Adam's, the endpoint's grid
    recovery_strong: float = added_later(0.1)  # a rate stored beside the endpoint; 0: none
    recovery_batch: int = added_later(0)  # images a step; 0: all
    recovery_accumulated: int = added_later(1)  # batches whose gradients are averaged before a step
    recovery_judged: int = added_later(200)  # images judged at every point of the grid
    bound_images: int = added_later(20)  # real images a class for the VLB and the denoising loss
    bound_steps: int = added_later(40)  # timesteps of each
    prompts: Prompts | None = added_later(None)  # noqa: RUF009  (text-to-image: how classes are asked for)
    family_images: int = added_later(0)  # of every family of further prompts
    recovery_vectors: tuple[int, ...] = added_later(
        (1,)
    )  # text-to-image: new vectors in place of c_f's name
    replay_used: int = added_later(0)
    """Of a fixed replay set, the first so many are trained on; 0: all."""
    replay_shared: bool = added_later(False)
    """A fixed replay set is the same for every forgetting seed."""
    model: str = added_later("")
    """A pretrained base: a folder, a weight file, a hub id, `smoke`; "": the recipe's."""
    size: int = added_later(0)  # pixels a side of a pretrained model's images
    surrogate_images: int = added_later(0)
    """In a fixed set of q; 0: as many as replay has of a class, at least 100."""
    leakage_images: int = added_later(0)  # of each other class, for the set `leakage`
    open: bool = added_later(False)  # any text may be the concept
    gate: float = added_later(0.0)
    """c_f is forgotten at this rate or less; 0: chance, one in so many classes."""
    train_precision: Literal["auto", "fp32", "bf16"] = added_later("auto")
    """Of base and method; sa_bench.training.loop.uses_bf16."""
    keep_images: bool = added_later(True)  # False: images of c_f are deleted once they are measured
    sample_seed: Seed = added_later(0)  # noqa: RUF009  (another draw of every image that is measured, from the same models)
    presets: Mapping[str, Any] = field(default_factory=dict)
    """Of each method with such a field, or of one."""
    scales: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def retain(self) -> tuple[int, ...]:
        """The indices of all retained classes."""
        return tuple(i for i in range(len(self.classes)) if i != self.concept)

    def prompts_for(self, c: int, role: str = "test") -> list[Condition]:
        """The conditions that ask for class `c`: its index or, of a text-to-image model, the prompts of a role."""
        return [c] if self.prompts is None else [*self.prompts.of(role, self.classes[c])]

    def replay_conditions(self) -> list[Condition]:
        """What replay asks for, in turn: every covered class, or the replay prompts as they stand."""
        if self.prompts is not None and self.retains_prompts:
            return [
                text for text in self.prompts.of("replay", "") if not self.mentions_concept(text)
            ]
        return [
            c
            for turn in zip(*(self.prompts_for(c, "replay") for c in self.covered), strict=True)
            for c in turn
        ]

    def mentions_concept(self, text: str) -> bool:
        """Whether a prompt names c_f, which no prompt of what is to be kept may.

        By its class's name, its other names, or a prompt that stands for it while forgetting; however they are written.
        """
        name, prompts = self.classes[self.concept], self.prompts
        if prompts is None:
            return mentions(text, [name])
        further = (*prompts.synonyms.get(name, ()), *prompts.names.get(name, ()))
        return mentions(
            text, [name, *further, *(asked for asked in prompts.forget if "{}" not in asked)]
        )

    @property
    def retains_prompts(self) -> bool:
        """Whether prompts that name no class are what is to be kept."""
        return self.prompts is not None and bool(self.prompts.kept or "kept" in self.prompts.files)

    @property
    def anchor(self) -> Condition:
        """What stands for c_f in methods that map it onto a condition: the surrogate's class or prompt, else the null.

        Of a class-conditional model with a surrogate that is no class, the class `relabel_to`.
        """
        kind, _, argument = self.surrogate.partition(":")
        if kind == "prompt":
            return argument
        c = int(argument) if kind == "class" else self.relabel_to
        return c if self.prompts is None else self.classes[c] if kind == "class" else ""

    @property
    def covered(self) -> tuple[int, ...]:
        """The retained classes that replay shows."""
        return self.retain[:: self.replay_every]

    @property
    def scored(self) -> tuple[int, ...]:
        """The retained classes that retention is measured on."""
        if self.score == "retain":
            return self.retain
        return tuple(c for c in self.retain if c not in self.covered)
