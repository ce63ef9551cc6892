"""Keys keep their names when fields are added."""

from dataclasses import dataclass

from sa_bench.contracts import added_later, key_values


@dataclass(frozen=True)
class Inner:
    n: int = 3
    new: str = added_later("old")


@dataclass(frozen=True)
class Outer:
    a: float = 1.0
    inner: Inner = Inner()
    sizes: tuple[int, ...] = (1, 2)
    added: int = added_later(0)


def test_a_later_field_is_absent_at_its_default_alone():
    assert key_values(Outer()) == {"a": 1.0, "inner": {"n": 3}, "sizes": [1, 2]}
    assert key_values(Outer(added=1))["added"] == 1
    assert key_values(Outer(inner=Inner(new="x")))["inner"] == {"n": 3, "new": "x"}


def test_values_of_a_class_are_pruned_like_its_instances():
    values = {"a": 2.0, "inner": {"n": 3, "new": "old"}, "sizes": (1, 2), "added": 0}
    assert key_values(values, Outer) == key_values(Outer(a=2.0))
