"""Scale `quick` of tasks on pretrained models: every stage of the real code on a tiny random pipeline, in minutes.

Its numbers mean nothing, and every result says so.
"""

from typing import Any

PRESETS: dict[str, Any] = {
    "steps": 3,
    "batch": 2,
    "fisher": {"n": 2, "timesteps": 4, "set": "replay"},
    "esd.ddim_steps": 4,
    "salun.saliency": 1,
}
SMOKE: dict[str, Any] = {
    "model": "smoke",
    "size": 64,
    "sampler": {"steps": 4},
    "n_forget": 8,
    "n_retain": 8,
    "replay_images": 8,
    "surrogate_images": 8,
    "recovery_budgets": (0, 2),
    "recovery_rates": (0.01,),
    "recovery_vectors": (1,),
    "bound_steps": 2,
    "prompts": {"files": {}},
    "presets": PRESETS,
}
