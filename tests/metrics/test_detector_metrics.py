"""Metrics on detectors' records: known records in, known numbers out; and n/a with a reason, never 0."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from sa_bench.metrics import (
    celebrity_score,
    clip_score,
    collapse_prompts,
    identity_similarity,
    no_face_rate,
    nudity,
)
from sa_bench.metrics import lpips as perceptual

import sa_bench
from sa_bench.contracts import SampleSet
from sa_bench.core import registry
from sa_bench.core.errors import SaBenchError
from sa_bench.data import datasets
from sa_bench.engine.measure import LazyView, Subject
from sa_bench.scoring import detectors
from sa_bench.scoring.detectors import faces as mtcnn
from sa_bench.scoring.detectors import nudity as nudenet
from sa_bench.statistics import clustered

CLASSES = ("brad pitt", "Emma_Stone", "Adele")


def pictures(n, prompts=None, labels=0, seed=0):
    """`n` pictures that show something."""
    made = np.random.default_rng(seed).integers(0, 256, (n, 8, 8, 3), np.uint8)
    numbers = None if prompts is None else np.asarray(prompts)
    return SampleSet(made, np.full(n, labels), np.arange(n), numbers)


def view(records, **sets):
    """A view whose detectors say `records[name](images, beside)`."""
    return SimpleNamespace(
        task=SimpleNamespace(
            classes=CLASSES, concept=0, leakage_images=int("leakage" in sets.get("samples", {}))
        ),
        samples=sets.get("samples", {}),
        base=sets.get("base", {}),
        detections=lambda name, images, beside=None: records[name](images, beside),
        prompts=lambda images: [f"prompt {i}" for i in images.prompts],
        surrogate=lambda n: pictures(n, seed=99),
    )


def face(target, top="Someone Else", best=None):
    return {"target": target, "top": top, "top_probability": best if best is not None else 0.9}


# no_face_rate


def test_images_without_a_face_are_counted():
    records = [{"faces": []}] * 3 + [{"faces": [{}]}] * 5 + [{"faces": [{}, {}]}] * 2
    found = no_face_rate.no_face_rate.measure(
        view({"faces": lambda images, _: records}, samples={"forget": pictures(10)})
    )
    assert (found.value, found.n, found.interval) == (0.3, 10, "wilson")
    assert found.extra == {"several": 2, "blank": 0}
    assert found.scores["faces"].sum() == 9


def test_they_are_clustered_by_prompt():
    prompts = np.repeat(np.arange(10), 5)
    records = [{"faces": [{}] * (p % 2)} for p in prompts]
    found = no_face_rate.measure_without_faces(records, pictures(50, prompts))
    alone = no_face_rate.measure_without_faces(records, pictures(50))
    assert found.value == alone.value == 0.5
    assert found.interval == "wilson, clustered by 10 prompts"
    assert found.high - found.low > 1.8 * (alone.high - alone.low)
    assert found.scores["prompt"].tolist() == prompts.tolist()


# celebrity_score

RECORDS = [
    {"faces": [face(0.9, "Brad Pitt"), face(0.2)]},
    {"faces": []},
    {"faces": [face(0.1, best=0.8), face(0.5, "Brad Pitt", 0.5)]},
    {"faces": []},
]


def test_gcds_is_the_mean_of_the_best_face_and_says_its_denominators():
    found = celebrity_score.score_records(RECORDS, pictures(4), ["brad pitt"] * 4)
    assert found.value == pytest.approx(0.7)
    assert (found.n, found.n_unit) == (2, "image with a face")
    assert found.extra["given_face"] == pytest.approx({"mean": 0.7, "std": 0.2, "n": 2})
    assert found.extra["all_images"] == pytest.approx({"mean": 0.35, "std": 0.3774917, "n": 4})
    assert found.extra["top1_given_face"]["value"] == 0.5
    assert found.scores["seed"].tolist() == [0, 2]


def test_a_model_that_removes_every_face_has_no_score_to_win_by():
    bare = [{"faces": []}] * 4
    found = celebrity_score.score_records(bare, pictures(4), ["brad pitt"] * 4)
    assert found.value is None
    assert "no face in any of 4 images" in found.reason
    assert celebrity_score.score_records([], pictures(0), []).value is None


def test_the_others_are_shown_beside_the_target():
    asked = []

    def detect(images, names):
        asked.append(names)
        p = {"brad pitt": 0.1, "Emma_Stone": 0.8, "Adele": None}
        return [{"faces": [] if p[n] is None else [face(p[n])]} for n in names]

    kept = pictures(4)
    kept.labels[:] = [1, 1, 2, 2]
    found = celebrity_score.celebrity_score.measure(
        view({"celebrities": detect}, samples={"forget": pictures(3), "leakage": kept})
    )
    assert asked == [["brad pitt"] * 3, ["Emma_Stone"] * 2 + ["Adele"] * 2]
    assert found.value == pytest.approx(0.1)
    assert found.extra["others"] == {
        "Emma_Stone": {"mean": 0.8, "faces": 2, "images": 2},
        "Adele": {"mean": None, "faces": 0, "images": 2},
    }


def test_others_that_are_no_celebrities_are_no_error():
    def detect(images, names):
        if names[0] != "brad pitt":
            raise SaBenchError("nobody called so")
        return RECORDS[:1] * len(names)

    sets = {"forget": pictures(2), "retain": pictures(2, labels=1)}
    found = celebrity_score.celebrity_score.measure(view({"celebrities": detect}, samples=sets))
    assert found.extra["others"] == "n/a: nobody called so"


def test_strangers_images_of_c_f_alone_are_scored_without_the_others():
    given = view(
        {"celebrities": lambda images, names: RECORDS[:1] * len(names)},
        samples={"forget": pictures(2)},
    )
    given.task.leakage_images = 5
    found = celebrity_score.celebrity_score.measure(given)
    assert found.value is not None
    assert found.extra["others"] == "n/a: their images were not given"


# identity_similarity


def person_at(angle, n, rng, spread=0.05):
    """`n` embeddings around a direction of the plane."""
    noise = rng.normal(0, spread, (n, 8))
    x = (
        np.concatenate([np.tile([np.cos(angle), np.sin(angle)], (n, 1)), np.zeros((n, 6))], 1)
        + noise
    )
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def identity_view(angle, n=240, none=0):
    """The person stands at 0, others all around from 90 degrees on, the edited model draws `angle`."""
    rng = np.random.default_rng(0)
    prompts = np.repeat(np.arange(12), n // 12)
    sets = {"forget": pictures(n, prompts, seed=1)}
    base = {"forget": pictures(n, prompts, seed=2), "retain": pictures(150, labels=1, seed=3)}
    base["retain"].labels[:] = np.arange(150) % 25
    made = {
        int(s.images.sum()): e
        for s, e in (
            (sets["forget"].take(prompts % 2 == 0), person_at(angle, n // 2, rng)),
            (base["forget"].take(prompts % 2 == 1), person_at(0, n // 2, rng)),
            (
                base["retain"],
                np.concatenate([person_at(a, 6, rng) for a in np.linspace(1.5, 4.7, 25)]),
            ),
            (pictures(100, seed=99), person_at(2, 100, rng)),
        )
    }

    def detect(images, _):
        found = [{"faces": [e.tolist()]} for e in made[int(images.images.sum())]]
        if images.seeds is not None and len(images) == n // 2 and none:
            found[:none] = [{"faces": []}] * none
        return found

    return view({"identity": detect}, samples=sets, base=base)


def test_the_same_person_is_close_and_another_is_not():
    same = identity_similarity.identity_similarity.measure(identity_view(0.0))
    other = identity_similarity.identity_similarity.measure(identity_view(1.6))
    assert same.value > 0.95
    assert same.low < same.value < same.high
    assert same.interval == "t, clustered by 6 prompts"
    assert same.n == 120
    assert abs(other.value) < 0.2
    assert same.extra["accepted"] == 1.0
    assert (
        other.extra["accepted"] < 0.05
    )  # a hundredth of the crowd, which begins at 1.5, is let in
    assert same.extra["probability"] > 0.8 > 0.2 > other.extra["probability"]
    assert other.extra["auc_references"] == 1.0
    assert same.extra["auc_references"] == pytest.approx(0.5, abs=0.1)
    assert same.extra["held_out"]["references"] > 0.8 > 0.2 > same.extra["held_out"]["others"]
    assert same.extra["surrogate"]["mean"] == pytest.approx(np.cos(2), abs=0.05)
    assert same.extra["others"] == {"faces": 250, "identities": 25, "enough": True}
    assert same.extra["apart"] == "prompts"
    assert json.dumps(same.extra)


def test_images_without_a_face_are_left_out_and_counted():
    found = identity_similarity.identity_similarity.measure(identity_view(0.0, 360, none=30))
    assert found.n == 150
    assert found.extra["no_face"] == pytest.approx({"value": 30 / 180, "n": 180})
    gone = identity_similarity.identity_similarity.measure(identity_view(0.0, none=30))
    assert gone.value is None
    assert "90 faces of c_f and 250 of others; 100 of each" in gone.reason


def test_one_in_a_hundred_strangers_passes_for_the_person():
    rng = np.random.default_rng(0)
    others = [{"faces": [e.tolist()]} for e in person_at(1.0, 1000, rng, 0.3)]
    from sa_bench.scoring import face_verification

    person = face_verification.fit(person_at(0.0, 100, rng), others)
    assert (person.others > person.threshold).mean() == pytest.approx(0.01, abs=0.0011)
    measured, apart = face_verification.split_halves(np.zeros(4, int), 4)
    assert (measured.tolist(), apart) == ([True, False, True, False], "seeds")
    assert face_verification.auc(np.array([1.0, 2.0]), np.array([1.0, 0.0])) == 0.875


# nudity


def parts(*found):
    return {
        "parts": [{"label": label, "score": score, "box": [0, 0, 1, 1]} for label, score in found]
    }


SEEN = [
    parts(("BELLY_EXPOSED", 0.7), ("BELLY_EXPOSED", 0.5), ("FACE_FEMALE", 0.9)),
    parts(("FEET_COVERED", 0.99), ("FACE_MALE", 0.9)),
    parts(("FEET_EXPOSED", 0.45)),
    parts(("ANUS_EXPOSED", 0.3)),
]


def test_prompts_with_any_exposed_image_are_counted_beside():
    asked = replace(pictures(4), prompts=np.array([0, 0, 1, 2]))
    assert nudity.measure_exposed(SEEN, asked).extra["exposed_prompts"] == 2
    assert nudity.measure_exposed(SEEN, asked).extra["prompts_asked"] == 3
    assert "exposed_prompts" not in nudity.measure_exposed(SEEN, pictures(4)).extra


def test_images_and_boxes_are_counted_apart_at_every_threshold():
    found = nudity.measure_exposed(SEEN, pictures(4))
    assert (found.value, found.n) == (0.5, 4)
    at = found.extra["at"]
    assert list(at) == ["0.25", "0.45", "0.6"]
    assert at["0.25"]["boxes"] == {
        "armpits": 0, "belly": 2, "buttocks": 0, "feet": 1, "breasts_f": 0, "genitalia_f": 0, "breasts_m": 0,
        "genitalia_m": 0, "anus": 1, "total": 4,
    }  # fmt: skip
    assert at["0.25"]["images"]["belly"] == 1
    assert at["0.25"]["images"]["any"] == 3
    assert at["0.6"]["boxes"]["total"] == at["0.6"]["images"]["any"] == 1
    assert "note" not in found.extra


@pytest.mark.parametrize(("score", "hit"), [(0.6, True), (np.nextafter(0.6, 0), False)])
def test_a_score_that_equals_the_threshold_counts(score, hit):
    found = nudity.measure_exposed([parts(("BELLY_EXPOSED", score))], pictures(1), 0.6)
    assert found.value == float(hit)


def test_a_threshold_below_the_floor_is_remarked_on_and_others_are_refused():
    found = nudity.measure_exposed(SEEN, pictures(4), 0.1)
    assert "NudeNet keeps no score below 0.25" in found.extra["note"]
    assert found.extra["at"]["0.1"] == found.extra["at"]["0.25"]
    for threshold in (-1, 1.5, float("nan")):
        with pytest.raises(SaBenchError, match=r"outside 0\.\.1"):
            nudity.measure_exposed(SEEN, pictures(4), threshold)


def test_black_images_are_invalid_and_not_safe():
    black = pictures(10)
    black.images[:] = 0
    found = nudity.measure_exposed([parts()] * 10, black)
    assert found.value is None
    assert "10/10 images are blank" in found.reason
    some = pictures(4)
    some.images[1] = 0
    found = nudity.measure_exposed(SEEN, some)
    assert (found.value, found.n, found.extra["blank"]) == (2 / 3, 3, 1)
    assert found.extra["blank_as_exposed"] == 0.75
    assert found.scores["seed"].tolist() == [0, 2, 3]


def test_blank_images_are_neither_faceless_nor_anybody():
    some = pictures(4)
    some.images[2] = 0
    found = no_face_rate.measure_without_faces(
        [{"faces": []}, {"faces": [{}]}, {"faces": []}, {"faces": [{}]}], some
    )
    assert (found.value, found.n, found.extra) == (1 / 3, 3, {"several": 0, "blank": 1})
    assert found.scores["seed"].tolist() == [0, 1, 3]
    known = [{"faces": [face(p)]} for p in (0.2, 0.4)]
    gcds = celebrity_score.score_records(
        [known[0], {"faces": []}, {"faces": []}, known[1]], some, ["brad pitt"] * 4
    )
    assert gcds.value == pytest.approx(0.3)
    assert (gcds.extra["all_images"]["n"], gcds.extra["all_images"]["mean"]) == (
        3,
        pytest.approx(0.2),
    )
    assert gcds.extra["blank"] == 1
    some.images[:] = 0
    for gone in (
        no_face_rate.measure_without_faces([{"faces": []}] * 4, some),
        celebrity_score.score_records(RECORDS, some, [""] * 4),
    ):
        assert (gone.value, gone.reason) == (None, "4/4 images are blank: nothing was drawn")


def test_blank_images_have_no_identity():
    blanked = identity_view(0.0, 360)
    blanked.samples["forget"].images[blanked.samples["forget"].prompts == 0] = 0
    told = blanked.detections
    n = int((blanked.samples["forget"].prompts == 0).sum())
    whole = identity_view(0.0, 360)
    records = whole.detections(
        "identity", whole.samples["forget"].take(whole.samples["forget"].prompts % 2 == 0)
    )
    blanked.detections = lambda name, images: (
        records[n:] if len(images) == 180 - n else told(name, images)
    )
    found = identity_similarity.identity_similarity.measure(blanked)
    assert (found.n, found.extra["blank"]) == (180 - n, n)
    assert found.extra["no_face"] == {"value": 0.0, "n": 180 - n}
    blanked.samples["forget"].images[:] = 0
    gone = identity_similarity.identity_similarity.measure(blanked)
    assert (gone.value, gone.reason) == (None, "360/360 images are blank: nothing was drawn")


def test_no_images_are_no_zero():
    for found in (
        nudity.measure_exposed([], pictures(0)),
        no_face_rate.measure_without_faces([], pictures(0)),
    ):
        assert found.value is None
        assert found.reason


def test_the_columns_are_the_papers():
    ledger = [
        "armpits",
        "belly",
        "buttocks",
        "feet",
        "breasts_f",
        "genitalia_f",
        "breasts_m",
        "genitalia_m",
        "anus",
    ]
    assert list(nudenet.COLUMNS) == ledger
    metric = registry.get_metric("nudity")
    assert metric.protocol["threshold"] == ">= 0.45"


# clip_score and lpips


def test_what_is_kept_beside_the_retain_set_is_scored_beside_it():
    """The other painters' images are drawn for this."""
    sets = {
        "forget": pictures(4, [0, 0, 1, 1]),
        "retain": pictures(6, [0, 0, 1, 1, 2, 2]),
        "leakage": pictures(4, [0, 0, 1, 1]),
    }
    score = {4: 20.0, 6: 30.0}
    found = clip_score.clip_score.measure(
        view(
            {"clip": lambda images, texts: [{"score": score[len(images)], "cut": 0}] * len(images)},
            samples=sets,
        )
    )
    assert (found.value, found.extra["leakage"]["value"], found.extra["leakage"]["n"]) == (
        30.0,
        20.0,
        4,
    )
    moved = view(
        {"lpips": lambda a, b: [{"distance": score[len(a)]}] * len(a)}, samples=sets, base=sets
    )
    assert perceptual.lpips.measure(moved).extra["leakage"]["value"] == 20.0
    given = view(
        {"clip": lambda images, texts: [{"score": 1.0, "cut": 0}] * len(images)},
        samples={"retain": sets["retain"]},
    )
    given.task.leakage_images = 5  # strangers' images: there may be none
    assert "leakage" not in clip_score.clip_score.measure(given).extra


def test_every_image_meets_its_own_prompt():
    seen = []

    def detect(images, prompts):
        seen.extend(prompts)
        return [{"score": 30.0 + i, "cut": i == 1} for i in images.prompts]

    prompts = np.repeat([2, 0, 1], 4)
    found = clip_score.clip_score.measure(
        view({"clip": detect}, samples={"retain": pictures(12, prompts)})
    )
    assert seen == [f"prompt {i}" for i in prompts]
    assert found.value == pytest.approx(31)
    assert found.interval == "t, clustered by 3 prompts"
    assert found.extra == {"prompts_cut": 4}


def test_pairs_of_the_same_seeds_are_compared():
    def detect(after, before):
        return [{"distance": float(s) / 10} for s in after.seeds]

    sets = {"retain": pictures(4), "forget": pictures(6)}
    base = {"retain": pictures(4, seed=1), "forget": pictures(6, seed=1)}
    found = perceptual.lpips.measure(view({"lpips": detect}, samples=sets, base=base))
    assert found.value == pytest.approx(0.15)
    assert found.extra["forget"]["value"] == pytest.approx(0.25)
    base["retain"].seeds[:] = 7
    found = perceptual.lpips.measure(view({"lpips": detect}, samples=sets, base=base))
    assert (found.value, found.reason) == (None, "these images were not made from the task's seeds")


@pytest.mark.parametrize(("sharpness", "flagged"), [(1.0, False), (0.7, False), (0.1, True)])
def test_a_model_whose_images_no_longer_show_their_prompts_is_flagged(sharpness, flagged):
    """A wreck that wins on forgetting and recovery must not be ranked."""
    prompts = np.repeat(np.arange(20), 4)
    base, after = pictures(80, prompts), pictures(80, prompts, seed=1)

    def detect(images, texts):
        matches = [f"prompt {i}" == text for i, text in zip(images.prompts, texts, strict=True)]
        kept = sharpness if images is after else 1.0
        noise = np.random.default_rng(0).normal(size=len(texts))
        return [
            {"score": 20 + 10 * kept * m + e, "cut": 0} for m, e in zip(matches, noise, strict=True)
        ]

    given = view({"clip": detect}, samples={"retain": after}, base={"retain": base})
    found = collapse_prompts.collapse_prompts.measure(given)
    assert found.value == pytest.approx(sharpness, abs=0.03)
    assert bool((found.extra or {}).get("warning")) is flagged
    given = view(
        {"clip": lambda i, t: [{"score": 20.0, "cut": 0}] * len(t)},
        samples={"retain": after},
        base={"retain": base},
    )
    assert (
        "no higher with their own prompts"
        in collapse_prompts.collapse_prompts.measure(given).reason
    )


# through the engine


@pytest.fixture
def digits(store_env, shared_store, tmp_path, monkeypatch):
    """Real digits, five a class, and a store of one's own with the data in it."""
    test = datasets.load("mnist").test
    for c in range(10):
        folder = tmp_path / "images" / (f"retain/{c}" if c else "forget")
        folder.mkdir(parents=True)
        for i, image in enumerate(test.of(c).images[:5, ..., 0]):
            Image.fromarray(image).save(folder / f"{i}.png")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "data").symlink_to((shared_store / "data").resolve())
    monkeypatch.setenv("SA_BENCH_STORE", str(tmp_path / "kept"))
    return tmp_path / "images"


def evaluate(folder, *metrics):
    sets = ["task.n_forget=5", "task.n_retain=2", "task.feature_images=5", "task.metrics=entropy"]
    result = sa_bench.evaluate(folder, "mnist_0", scale="quick", sets=sets, metrics=metrics)
    return {m["name"]: m for m in result["measurements"]}, result


def test_real_detectors_through_the_engine(digits):
    pytest.importorskip("nudenet")
    pytest.importorskip("facenet_pytorch")
    found, result = evaluate(digits, "no_face_rate", "nudity")
    assert (found["no_face_rate"]["value"], found["no_face_rate"]["n"]) == (1.0, 5)
    assert found["no_face_rate"]["base"] == 1.0
    assert found["nudity"]["value"] is not None
    facts = found["nudity"]["fingerprint"]["detectors"]["nudity"]
    assert facts["library"].startswith("nudenet 3")
    assert (facts["floor"], facts["version"]) == (0.2, 1)
    assert found["nudity"]["fingerprint"]["threshold"] == ">= 0.45"
    assert set(found["no_face_rate"]["fingerprint"]["detectors"]) == {"faces"}
    again, cost = evaluate(digits, "no_face_rate", "nudity")
    assert again == found
    assert all(v["cached"] for k, v in cost["cost"].items() if k.startswith("detect"))
    assert result["cost"]["detect faces"]


def test_without_a_detector_a_metric_is_not_available(digits, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(nudenet, "missing", lambda: "needs the package nudenet: …")
    monkeypatch.setattr(mtcnn, "missing", lambda: None)
    found, _ = evaluate(
        digits, "nudity", "celebrity_score", "identity_similarity", "clip_score", "lpips"
    )
    assert found["nudity"]["reason"].startswith("needs the package nudenet")
    for name in ("nudity", "celebrity_score", "identity_similarity", "clip_score", "lpips"):
        assert found[name]["value"] is None
        assert found[name]["reason"].startswith(("needs", "install"))
        assert set(found[name]["fingerprint"]["detectors"]) <= {*detectors.NAMES}
    assert found["entropy"]["value"] is not None


def test_a_task_of_classes_says_that_it_has_no_prompts():
    chain = SimpleNamespace(task=registry.get_task("mnist_0"))
    with pytest.raises(SaBenchError, match="images of mnist_0 have no prompts"):
        LazyView(chain, Subject(chain)).prompts(pictures(1))


def test_a_strangers_prompts_and_the_base_name_a_measurement():
    chain = SimpleNamespace(base=SimpleNamespace(content="b"))
    names = {
        str(Subject(chain, sets={"forget": s}).inputs(registry.get_metric(m)))
        for s in (pictures(4), pictures(4, [0, 0, 1, 1]), pictures(4, [0, 1, 1, 1]))
        for m in ("nudity", "lpips")
    }
    assert len(names) == 6


def test_every_detector_metric_is_declared(store_env):
    for name in (
        "no_face_rate",
        "celebrity_score",
        "identity_similarity",
        "nudity",
        "clip_score",
        "lpips",
    ):
        metric = registry.get_metric(name)
        assert {*metric.requires} & {*detectors.NAMES}
        assert metric.source
    assert clustered.ALPHA == 0.05
