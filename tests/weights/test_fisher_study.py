"""The study of cheaper Fishers: what is compared with what, and what counts as equivalent."""

import pytest

from sa_bench.core.errors import SaBenchError
from sa_bench.weights.fisher_study import format_outcomes, interpolate_path

EXACT = {
    (lam, seed): {"forget_top1": 0.1, "retain_bound": 3.0 - 0.1 * i + 0.01 * seed}
    for i, lam in enumerate((1.0, 10.0, 100.0))
    for seed in range(3)
}


def row(timesteps, lam, seed, values):
    fisher = {"timesteps": timesteps, "estimator": "stratified"}
    return {
        "fields": {"lam": lam, "fisher": fisher}, "seed": seed, "base_seed": 0,
        "measurements": [{"name": name, "value": value, "fingerprint": {"metric": name}} for name, value in values.items()],
    }  # fmt: skip


def rows(shift=0.0, bound=0.0):
    """Runs of the exact F, and of one whose runs at λ are the exact ones at 10 λ, plus `bound`."""
    found = [row(0, lam, seed, values) for (lam, seed), values in EXACT.items()]
    for lam in (1.0, 10.0):
        for seed in range(3):
            there = EXACT[10 * lam, seed]
            values = {
                "forget_top1": there["forget_top1"] + shift,
                "retain_bound": there["retain_bound"] + bound,
            }
            found.append(row(50, lam, seed, values))
    return found


def trace(option):
    return 10.0 if option["timesteps"] else 1.0


def lines(text):
    return [line for line in text.splitlines() if line.startswith("| 50 timesteps")]


def test_values_are_read_off_the_same_seeds_path_in_log_lambda_and_never_beyond_it():
    assert interpolate_path(EXACT, (1.0, 2), 1.0)["retain_bound"] == pytest.approx(3.02)
    assert interpolate_path(EXACT, (1.0, 0), 10**0.5)["retain_bound"] == pytest.approx(2.95)
    assert interpolate_path(EXACT, (10.0, 0), 100.0) is None
    assert interpolate_path(EXACT, (1.0, 0), 0.5) is None
    assert interpolate_path(EXACT, (1.0, 9), 1.0) is None


def test_an_estimate_that_only_rescales_lambda_is_equivalent_at_the_same_trace_alone():
    same, matched = lines(format_outcomes(rows(), trace))
    assert "| 6, 3 | +0.000 ± 0.000 | yes" in same
    assert "-0.1000" in same
    assert "| no (margin 0.01)" in same
    assert "| 6, 3 | +0.000 ± 0.000 | yes" in matched
    assert "0.0000 ± 0.0000 | yes (margin 0.01)" in matched


def test_differences_beyond_a_margin_are_said():
    _, matched = lines(format_outcomes(rows(shift=0.06, bound=0.02), trace))
    assert "+0.060 ± 0.000 | no (margin 0.05)" in matched
    assert "+0.0200 ± 0.0000 | no (margin 0.01)" in matched


def test_without_the_exact_f_there_is_nothing_to_compare_with():
    with pytest.raises(SaBenchError, match=r"timesteps=0 are missing"):
        format_outcomes([r for r in rows() if r["fields"]["fisher"]["timesteps"]], trace)


def told(by_seed):
    """The row of an estimate whose runs at λ = 1 and 10 differ from the exact ones by a seed's two numbers."""
    found = [row(0, lam, seed, values) for (lam, seed), values in EXACT.items()]
    for seed, shifts in by_seed.items():
        for lam, shift in zip((1.0, 10.0), shifts, strict=True):
            exact = EXACT[lam, seed]
            found.append(
                row(50, lam, seed, exact | {"retain_bound": exact["retain_bound"] + shift})
            )
    return lines(format_outcomes(found, lambda option: 1.0))[0]


def test_the_interval_is_over_seeds_and_no_narrower_for_more_lambdas():
    """Seeds differ by 0, .003 and .006: t(.95, 2) = 2.920 times their standard error, .003 / √3, is .0051."""
    assert "| 6, 3 |" in told({0: (0.0, 0.0), 1: (0.003, 0.003), 2: (0.006, 0.006)})
    assert "+0.0030 ± 0.0051 | yes" in told({0: (0.0, 0.0), 1: (0.003, 0.003), 2: (0.006, 0.006)})
    # what the λ differ by within a seed is no spread of seeds: six pairs would have said ± 0.0093
    assert "+0.0030 ± 0.0051 | yes" in told(
        {0: (-0.01, 0.01), 1: (-0.007, 0.013), 2: (-0.004, 0.016)}
    )


def test_a_difference_that_three_seeds_cannot_tell_from_the_margin_is_not_shown():
    """Six pairs would have said ± .0029, and so `yes`."""
    assert "+0.0040 ± 0.0067 | not shown" in told(
        {0: (0.0, 0.0), 1: (0.004, 0.004), 2: (0.008, 0.008)}
    )


def test_two_seeds_are_too_few_at_any_number_of_lambdas():
    assert told({0: (0.0, 0.0), 1: (0.003, 0.003)}).endswith(
        "| – | too few seeds | – | too few seeds |"
    )


def test_runs_of_several_bases_are_refused():
    found = rows()
    found[0]["base_seed"] = 1
    with pytest.raises(SaBenchError, match="of the bases 0, 1"):
        format_outcomes(found, trace)
