"""Canvases with captions: what is shown is what is said."""

import numpy as np
import pytest

from sa_bench.data import captions

RNG = np.random.default_rng(0)
IMAGES = np.zeros((10, 28, 28), np.uint8)
for digit in range(10):
    IMAGES[digit, 6:22, 12:16] = 20 * digit + 50  # every class another grey
LABELS = np.arange(10)


@pytest.fixture(scope="module")
def made():
    return captions.draw_captioned(IMAGES, LABELS, 2000, np.random.default_rng(1))


def digit_of(canvas):
    return round((int(canvas.max()) - 50) / 20)


def named(text):
    names = {w: d for d, w in enumerate(captions.WORDS)} | {
        s: d for d, ss in captions.SYNONYMS.items() for s in ss
    }
    return [names[w] for w in text.split() if w in names]


def test_a_caption_names_what_its_canvas_shows(made):
    canvases, texts, shown = made
    for canvas, text, (first, second) in zip(canvases, texts, shown, strict=True):
        digits = named(text)
        if not digits:
            assert text in captions.HYPERNYMS
            continue
        assert digits == [first] + [second] * int(second >= 0)
        if second < 0 and "left" not in text and "right" not in text:
            assert digit_of(canvas) == first
        if "red" in text.split():
            assert canvas[..., 1:].max() == 0 < canvas[..., 0].max()
        if "blue" in text.split():
            assert canvas[..., :2].max() == 0 < canvas[..., 2].max()
        if "left" in text.split():
            assert canvas[:, 16:].max() == 0
        if "right" in text.split():
            assert canvas[:, :16].max() == 0


def test_every_kind_of_caption_is_there_and_held_out_templates_are_not(made):
    _, texts, shown = made
    assert 0.18 < (shown[:, 1] >= 0).mean() < 0.24
    assert {a for a in captions.ATTRIBUTES if any(a in t.split() for t in texts)} == set(
        captions.ATTRIBUTES
    )
    assert {"nought", "null", "0"} <= {w for t in texts for w in t.split()}
    assert any(t in captions.HYPERNYMS for t in texts)
    assert not set(captions.TEMPLATES) & set(captions.HELD_OUT)
    assert len(captions.HELD_OUT) >= 20
    held_out = {t.format(w) for t in captions.HELD_OUT for w in captions.WORDS}
    assert not held_out & set(texts)


def test_the_same_generator_gives_the_same_canvases():
    first = captions.draw_captioned(IMAGES, LABELS, 50, np.random.default_rng(3))
    again = captions.draw_captioned(IMAGES[..., None], LABELS, 50, np.random.default_rng(3))
    assert first[1] == again[1]
    np.testing.assert_array_equal(first[0], again[0])


def test_what_judges_see_of_a_canvas_is_the_digit():
    canvas = captions.single(IMAGES[3])
    np.testing.assert_array_equal(captions.digits(canvas[None])[0, ..., 0], IMAGES[3])
    red = captions.single(IMAGES[3], "red")
    np.testing.assert_array_equal(captions.digits(red[None]), captions.digits(canvas[None]))
    left, right = captions.halves(captions.pair(IMAGES[3], IMAGES[7])[None])
    assert left.shape == right.shape == (1, 28, 28, 1)
    assert digit_of(left[0]) == 3
    assert digit_of(right[0]) == 7


def test_thick_covers_thin_covers_nothing_new():
    thick, plain, thin = (captions.single(IMAGES[5], a) > 0 for a in ("thick", None, "thin"))
    assert (thick & plain).sum() == plain.sum() < thick.sum()
    assert (plain & thin).sum() == thin.sum() < plain.sum()


def test_tints_come_equally_often():
    canvases = np.repeat(captions.single(IMAGES[4])[None], 3000, 0)
    tinted = captions.tinted(canvases, np.random.default_rng(0))
    red = (tinted[..., 2].max((1, 2)) == 0).mean()
    blue = (tinted[..., 0].max((1, 2)) == 0).mean()
    assert 0.3 < red < 0.37
    assert 0.3 < blue < 0.37
