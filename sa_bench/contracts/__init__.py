"""Define the nouns of sa_bench and what each must be able to do: read this package first.

A *task* says which concept a base model shall forget and how that is judged. A *method* turns the
base model θ* into a forgotten model θ. *Metrics* measure stored sample sets and the model. The
engine knows only the interfaces in these files, never a concrete component. They import nothing
else of this package.
"""

from sa_bench.contracts.attacks import (
    Coding,
    FineTuning,
    GeneticSearch,
    PrefixEnumeration,
    PrefixSearch,
    PromptFit,
    Stress,
)
from sa_bench.contracts.keys import (
    LARGEST_SEED,
    Count,
    Rate,
    Seed,
    Weight,
    added_later,
    flatten,
    image_seed,
    key_values,
    result_values,
)
from sa_bench.contracts.method import (
    FisherOptions,
    FixedSource,
    Method,
    Progress,
    Recipe,
    Run,
    Source,
    Times,
    ignore_event,
)
from sa_bench.contracts.metric import Extra, Judge, Measured, Metric, View, metric, undefined
from sa_bench.contracts.model import (
    PLACE,
    Bound,
    Condition,
    Defence,
    Diffusion,
    Draw,
    Generator,
    Guide,
    Likelihood,
    Precision,
    Prompted,
    Request,
    Sampler,
    Slot,
)
from sa_bench.contracts.samples import SampleSet
from sa_bench.contracts.task import SMOKE_MODEL, Prompts, Task

__all__ = [
    "LARGEST_SEED",
    "PLACE",
    "SMOKE_MODEL",
    "Bound",
    "Coding",
    "Condition",
    "Count",
    "Defence",
    "Diffusion",
    "Draw",
    "Extra",
    "FineTuning",
    "FisherOptions",
    "FixedSource",
    "Generator",
    "GeneticSearch",
    "Guide",
    "Judge",
    "Likelihood",
    "Measured",
    "Method",
    "Metric",
    "Precision",
    "PrefixEnumeration",
    "PrefixSearch",
    "Progress",
    "PromptFit",
    "Prompted",
    "Prompts",
    "Rate",
    "Recipe",
    "Request",
    "Run",
    "SampleSet",
    "Sampler",
    "Seed",
    "Slot",
    "Source",
    "Stress",
    "Task",
    "Times",
    "View",
    "Weight",
    "added_later",
    "flatten",
    "ignore_event",
    "image_seed",
    "key_values",
    "metric",
    "result_values",
    "undefined",
]
