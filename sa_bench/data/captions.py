"""MNIST with captions: what the micro text-to-image model is trained on, and what it can be asked.

A canvas is 32 x 32 RGB. Most show one digit, some with an attribute the caption names (thick, thin, red, blue, on
the left, on the right), some two digits ("zero and three"), and some are called by a hypernym ("a digit"). A
digit has several names, so that a method that forgets a word can be told from one that forgets the digit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

VERSION = 2  # raised when the same images give other canvases or captions
SIDE = 32
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
"""Never trained on; the last four hold words that were not either."""
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
"""Shares of canvases; the rest is called by a hypernym."""
OWN_NAME = 0.6  # of captions that use the digit's word rather than a synonym
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
"""Words of questions that nobody trained on: in the vocabulary, so that they are one token each."""


def vocabulary() -> list[str]:
    """Every word of every caption and question, in a fixed order."""
    texts = [
        *WORDS,
        *(s for names in SYNONYMS.values() for s in names),
        *TEMPLATES,
        *HELD_OUT,
        *HYPERNYMS,
    ]
    texts += ["a thick thin red blue on the left right and", " ".join(FURTHER)]
    words = [w for text in texts for w in text.replace("{}", " ").split()]
    return sorted(dict.fromkeys(words))


def draw_captioned(
    images: np.ndarray,
    labels: np.ndarray,
    n: int,
    rng: np.random.Generator,
    templates: Sequence[str] = TEMPLATES,
) -> tuple[np.ndarray, list[str], np.ndarray]:
    """`n` canvases with captions, and the digits on each.

    Args:
        images: MNIST, uint8 (N, 28, 28), (N, 28, 28, 1) or on canvases (N, 32, 32, 3).
        labels: (N,) 0..9.
        n: how many to make.
        rng: decides everything.
        templates: with `{}` for the digit's name.

    Returns:
        (uint8 (n, 32, 32, 3), captions, int64 (n, 2) the digits shown, −1 where there is no second)
    """
    images = (digits(images) if images.shape[1:] == (SIDE, SIDE, 3) else images).reshape(
        len(images), 28, 28
    )
    canvases, captions, shown = np.zeros((n, SIDE, SIDE, 3), np.uint8), [], np.full((n, 2), -1)
    for i in range(n):
        kind, k = rng.random(), int(rng.integers(len(images)))
        digit, template = int(labels[k]), templates[int(rng.integers(len(templates)))]
        shown[i, 0] = digit
        if kind < PLAIN:
            canvases[i] = single(images[k])
            captions.append(template.format(name(digit, rng)))
        elif kind < PLAIN + ATTRIBUTED:
            attribute = ATTRIBUTES[int(rng.integers(len(ATTRIBUTES)))]
            canvases[i] = single(images[k], attribute)
            captions.append(described(name(digit, rng), attribute, template))
        elif kind < PLAIN + ATTRIBUTED + COMPOSED:
            other = int(rng.integers(len(images)))
            shown[i, 1] = labels[other]
            canvases[i] = pair(images[k], images[other])
            captions.append(f"{name(digit, rng)} and {name(int(labels[other]), rng)}")
        else:
            canvases[i] = single(images[k])
            captions.append(HYPERNYMS[int(rng.integers(len(HYPERNYMS)))])
    return canvases, captions, shown


def name(digit: int, rng: np.random.Generator) -> str:
    """The digit's word or, less often, one of its synonyms."""
    others = SYNONYMS[digit]
    return WORDS[digit] if rng.random() < OWN_NAME else others[int(rng.integers(len(others)))]


def described(word: str, attribute: str, template: str) -> str:
    """A caption with an attribute: "a photo of a red zero", "a photo of a zero on the left"."""
    if attribute in ("left", "right"):
        return f"{template.format(word)} on the {attribute}"
    return template.format(f"{attribute} {word}")


def single(image: np.ndarray, attribute: str | None = None) -> np.ndarray:
    """One digit on a canvas, uint8 (32, 32, 3), of a (28, 28) image."""
    if attribute in ("left", "right"):
        blank = np.zeros((28, 28), np.uint8)
        return pair(image, blank) if attribute == "left" else pair(blank, image)
    if attribute in ("thick", "thin"):
        image = (
            _neighbours(image).max(0) if attribute == "thick" else _neighbours(image)[::2].min(0)
        )
    grey = np.pad(image, 2)
    colour = {"red": (1, 0, 0), "blue": (0, 0, 1)}.get(attribute or "", (1, 1, 1))
    return grey[..., None] * np.array(colour, np.uint8)


def tinted(canvases: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Canvases (N, 32, 32, 3), each left as it is, red or blue with equal chance."""
    masks = np.array([(1, 1, 1), (1, 0, 0), (0, 0, 1)], np.uint8)
    return canvases * masks[rng.integers(3, size=len(canvases))][:, None, None, :]


def pair(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Two digits side by side, uint8 (32, 32, 3); each (28, 28) image at half its size."""
    canvas = np.zeros((SIDE, SIDE), np.uint8)
    for x, image in ((0, left), (SIDE // 2, right)):
        canvas[8:24, x : x + 16] = halved(image)
    return np.repeat(canvas[..., None], 3, -1)


def halved(image: np.ndarray) -> np.ndarray:
    """(28, 28) padded to 32 and averaged over 2 x 2 pixels, uint8 (16, 16)."""
    return np.pad(image, 2).reshape(16, 2, 16, 2).mean((1, 3)).round().astype(np.uint8)


def halves(canvases: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two sides of canvases (N, 32, 32, 3) as grey uint8 (N, 28, 28, 1), each digit at its full size again."""
    grey = digits(canvases, crop=False)[:, 8:24, :, 0]
    sides = (grey[:, :, :16], grey[:, :, 16:])
    return tuple(np.repeat(np.repeat(s, 2, 1), 2, 2)[:, 2:30, 2:30, None] for s in sides)  # type: ignore[return-value]


def digits(canvases: np.ndarray, crop: bool = True) -> np.ndarray:
    """Canvases (N, 32, 32, 3) as the judges see them: the brightest channel, uint8 (N, 28, 28, 1)."""
    grey = canvases.max(-1, keepdims=True)
    return np.ascontiguousarray(grey[:, 2:30, 2:30]) if crop else grey


def _neighbours(image: np.ndarray) -> np.ndarray:
    """The image and its four shifts by a pixel, (5, 28, 28): their maximum thickens, the minimum of some thins."""
    p = np.pad(image, 1)
    return np.stack([p[1:-1, 1:-1], p[:-2, 1:-1], p[2:, 1:-1], p[1:-1, :-2], p[1:-1, 2:]])
