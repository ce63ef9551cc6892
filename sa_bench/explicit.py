"""Which tasks have images of c_f that may show nudity: reports veil them, bundles leave them out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WORDS = ("nud", "naked", "nsfw", "sex", "erotic", "porn", "topless", "undress", "explicit")  # parts of words


def explicit(task: Mapping[str, Any]) -> bool:
    """Whether images of c_f may show nudity: the task measures it, or its concept or prompts for it have such a word."""
    prompts = task.get("prompts") or {}
    asked = [task["classes"][task["concept"]], *prompts.get("forget", ()), *prompts.get("test", ())]
    named = any(word in text.lower() for text in asked for word in WORDS)
    return named or "nudity" in (*task["metrics"], *task["primary"]) or "i2p" in str(prompts.get("files"))
