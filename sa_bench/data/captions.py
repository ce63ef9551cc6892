"""Make captioned MNIST canvases, the training data of the micro text-to-image model.

A canvas is 32 × 32 RGB. Most show one digit, some with an attribute that the caption names (thick,
thin, red, blue, on the left, on the right), some show two digits ("zero and three"), and some are
called by a hypernym ("a digit"). A digit has several names, so that a method that forgets a word
can be told from one that forgets the digit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

VERSION = 2  # raised whenever the same images give other canvases or captions
SIDE = 32  # pixels per side of a canvas
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SYNONYMS = {0: ("0", "nought", "null")} | {d: (str(d),) for d in range(1, 10)}
TEMPLATES = (
    "{}",
    "a {}",
    "the {}",
    "digit {}",
    "the digit {}",
    "the number {}",
    "a photo of {}",
    "a photo of a {}",
    "a picture of a {}",
    "an image of a {}",
    "a drawing of a {}",
    "a handwritten {}",
    "a photo of the digit {}",
    "a picture of the number {}",
)
HELD_OUT = (
    "number {}", "handwritten {}", "a picture of {}", "an image of {}", "a drawing of {}", "the picture of a {}",
    "the photo of a {}", "an image of the number {}", "an image of the digit {}", "a drawing of the digit {}",
    "a drawing of the number {}", "a photo of the number {}", "a picture of the digit {}", "a handwritten digit {}",
    "the handwritten number {}", "a photo of a handwritten {}", "a picture of the handwritten {}",
    "a drawing of a handwritten {}", "the image of the handwritten digit {}", "a photo of a picture of a {}",
    "a sketch of a {}", "a scan of the digit {}", "please draw a {}", "somebody wrote a {}",
)  # fmt: skip
"""Templates that are never trained on; the last four also contain untrained words."""
HYPERNYMS = (
    "a digit",
    "a number",
    "a photo of a digit",
    "a picture of a number",
    "a handwritten digit",
    "digit",
)
ATTRIBUTES = ("thick", "thin", "red", "blue", "left", "right")
PLAIN, ATTRIBUTED, COMPOSED = (0.48, 0.25, 0.21)
"""Proportions of canvases; the rest is called by a hypernym."""
OWN_NAME = 0.6  # proportion of captions with the digit's word rather than a synonym
FURTHER = (
    "minus",
    "plus",
    "not",
    "no",
    "without",
    "before",
    "after",
    "comes",
    "zeros",
    "symbol",
    "for",
    "nothing",
)
"""Untrained words of prompts; the vocabulary has them, so that each is one token."""


def vocabulary() -> list[str]:
    """List every word of every caption and prompt, in a fixed order."""
    texts = [
        *WORDS,
        *(synonym for names in SYNONYMS.values() for synonym in names),
        *TEMPLATES,
        *HELD_OUT,
        *HYPERNYMS,
    ]
    texts += ["a thick thin red blue on the left right and", " ".join(FURTHER)]
    words = [word for text in texts for word in text.replace("{}", " ").split()]
    return sorted(dict.fromkeys(words))


def draw_captioned(
    images: np.ndarray,
    labels: np.ndarray,
    n: int,
    rng: np.random.Generator,
    templates: Sequence[str] = TEMPLATES,
) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Draw `n` canvases with captions.

    Args:
        images: MNIST, uint8 (N, 28, 28), (N, 28, 28, 1) or on canvases (N, 32, 32, 3).
        labels: (N,) 0..9.
        n: number of canvases.
        rng: the only source of randomness.
        templates: with `{}` for the digit's name.

    Returns:
        Canvases uint8 (n, 32, 32, 3); captions; int64 (n, 2), the digits shown, −1 for a missing
            second digit.
    """
    images = (digits(images) if images.shape[1:] == (SIDE, SIDE, 3) else images).reshape(
        len(images), 28, 28
    )
    canvases, captions, shown_digits = (
        np.zeros((n, SIDE, SIDE, 3), np.uint8),
        [],
        np.full((n, 2), -1),
    )
    for i in range(n):
        kind_draw, row = rng.random(), int(rng.integers(len(images)))
        digit, template = int(labels[row]), templates[int(rng.integers(len(templates)))]
        shown_digits[i, 0] = digit
        if kind_draw < PLAIN:
            canvases[i] = single(images[row])
            captions.append(template.format(name(digit, rng)))
        elif kind_draw < PLAIN + ATTRIBUTED:
            attribute = ATTRIBUTES[int(rng.integers(len(ATTRIBUTES)))]
            canvases[i] = single(images[row], attribute)
            captions.append(described(name(digit, rng), attribute, template))
        elif kind_draw < PLAIN + ATTRIBUTED + COMPOSED:
            other_row = int(rng.integers(len(images)))
            shown_digits[i, 1] = labels[other_row]
            canvases[i] = pair(images[row], images[other_row])
            captions.append(f"{name(digit, rng)} and {name(int(labels[other_row]), rng)}")
        else:
            canvases[i] = single(images[row])
            captions.append(HYPERNYMS[int(rng.integers(len(HYPERNYMS)))])
    return canvases, captions, shown_digits


def name(digit: int, rng: np.random.Generator) -> str:
    """Draw a name of the digit: its word or, less often, one of its synonyms."""
    others = SYNONYMS[digit]
    return WORDS[digit] if rng.random() < OWN_NAME else others[int(rng.integers(len(others)))]


def described(word: str, attribute: str, template: str) -> str:
    """Make a caption with an attribute: "a photo of a red zero", "a zero on the left"."""
    if attribute in ("left", "right"):
        return f"{template.format(word)} on the {attribute}"
    return template.format(f"{attribute} {word}")


def single(image: np.ndarray, attribute: str | None = None) -> np.ndarray:
    """Draw one (28, 28) digit on a canvas, uint8 (32, 32, 3)."""
    if attribute in ("left", "right"):
        blank = np.zeros((28, 28), np.uint8)
        return pair(image, blank) if attribute == "left" else pair(blank, image)
    if attribute in ("thick", "thin"):
        image = (
            _stack_neighbours(image).max(0)
            if attribute == "thick"
            else _stack_neighbours(image)[::2].min(0)
        )
    grey = np.pad(image, 2)
    colour = {"red": (1, 0, 0), "blue": (0, 0, 1)}.get(attribute or "", (1, 1, 1))
    return grey[..., None] * np.array(colour, np.uint8)


def tinted(canvases: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Leave each canvas (N, 32, 32, 3) as it is or tint it red or blue, with equal probability."""
    masks = np.array([(1, 1, 1), (1, 0, 0), (0, 0, 1)], np.uint8)
    return canvases * masks[rng.integers(3, size=len(canvases))][:, None, None, :]


def pair(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Draw two (28, 28) digits side by side at half their size, uint8 (32, 32, 3)."""
    canvas = np.zeros((SIDE, SIDE), np.uint8)
    for x, image in ((0, left), (SIDE // 2, right)):
        canvas[8:24, x : x + 16] = halved(image)
    return np.repeat(canvas[..., None], 3, -1)


def halved(image: np.ndarray) -> np.ndarray:
    """Pad (28, 28) to 32 and average 2 × 2 pixels, uint8 (16, 16)."""
    return np.pad(image, 2).reshape(16, 2, 16, 2).mean((1, 3)).round().astype(np.uint8)


def halves(canvases: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut canvases (N, 32, 32, 3) into their left and right halves.

    Each half is grey uint8 (N, 28, 28, 1), with its digit at full size again.
    """
    grey = digits(canvases, crop=False)[:, 8:24, :, 0]
    sides = (grey[:, :, :16], grey[:, :, 16:])
    left, right = (np.repeat(np.repeat(side, 2, 1), 2, 2)[:, 2:30, 2:30, None] for side in sides)
    return left, right


def digits(canvases: np.ndarray, crop: bool = True) -> np.ndarray:
    """Convert canvases (N, 32, 32, 3) to what the judges see, uint8 (N, 28, 28, 1).

    It is the brightest channel; with `crop=False` it keeps its 32 pixels per side.
    """
    grey = canvases.max(-1, keepdims=True)
    return np.ascontiguousarray(grey[:, 2:30, 2:30]) if crop else grey


def _stack_neighbours(image: np.ndarray) -> np.ndarray:
    """Stack the image and its four shifts by one pixel, (5, 28, 28).

    Their maximum thickens a digit; the minimum of some thins it.
    """
    padded = np.pad(image, 1)
    return np.stack(
        [
            padded[1:-1, 1:-1],
            padded[:-2, 1:-1],
            padded[2:, 1:-1],
            padded[1:-1, :-2],
            padded[1:-1, 2:],
        ]
    )
