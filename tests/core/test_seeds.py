"""One range and one type of seeds: command line, Python, suites, prompt files."""

import numpy as np
import pytest
import torch

from sa_bench.commands.arguments import parse_seeds
from sa_bench.contracts import LARGEST_SEED
from sa_bench.core.errors import SaBenchError
from sa_bench.engine import suites
from sa_bench.engine.cells import resolve
from sa_bench.models.vae import noise

WRONG = [-1, LARGEST_SEED + 1, 2**64 - 1, 1.0, 1.5, None, True, "x", "1.0", "", b"1", [1]]


def test_why_seeds_end_at_32_bits():
    assert torch.equal(noise([0], (4,)), noise([2**32], (4,))), (
        "a CPU generator takes 32 bits: the range could grow"
    )


@pytest.mark.parametrize("seed", WRONG, ids=repr)
def test_what_is_no_seed_is_refused_in_python(seed):
    for option in ({"seeds": [seed]}, {"base_seeds": [seed]}):
        with pytest.raises(
            SaBenchError, match=r"must be a whole number from 0 to 4,294,967,295"
        ) as caught:
            resolve(["mnist_0"], ["sa"], **option)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "given", [5, [5], (5,), ["5"], [np.int64(5)], np.array([5]), range(5, 6), [5, 5]], ids=repr
)
def test_one_seed_however_it_is_given(given):
    assert [type(cell.seed) for cell in resolve(["mnist_0"], ["sa"], seeds=given)] == [int]
    assert [cell.seed for cell in resolve(["mnist_0"], ["sa"], seeds=given)] == [5]


@pytest.mark.parametrize("text", ["-1", "4294967296", "1.0", "a", "0,,x", "1e3"])
def test_what_is_no_seed_is_refused_on_the_command_line(text):
    with pytest.raises(SaBenchError, match="--seed is"):
        parse_seeds(text, "--seed")
    assert parse_seeds("0, 4294967295", "--seed") == [0, LARGEST_SEED]


def test_and_in_a_suite(tmp_path):
    suite = tmp_path / "a.toml"
    suite.write_text('[[run]]\ntask = ["mnist_0"]\nmethod = ["sa"]\nseed = [4294967296]\n')
    with pytest.raises(SaBenchError, match=r"run 1.*4294967296"):
        suites.resolve_suite(str(suite))
    with pytest.raises(SaBenchError, match="permutation='-1'"):
        resolve(["mnist_0"], ["permuted_f"], sets=["permutation=-1"])
    with pytest.raises(SaBenchError, match="is empty"):
        resolve(["mnist_0"], ["sa"], seeds=[])
