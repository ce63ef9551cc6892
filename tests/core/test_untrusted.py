"""Files of strangers are limited before memory is taken: the claims below would take gigabytes."""

import io
import json
import lzma
import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from sa_bench.core import untrusted_arrays, untrusted_text
from sa_bench.core.errors import SaBenchError
from sa_bench.core.untrusted_text import MIB, Unfit
from sa_bench.data import images
from sa_bench.models.checkpoints import diffusers_folder, layouts
from sa_bench.results.bundles import BUNDLED, open_bundle
from sa_bench.results.files import read_results

ROOT = Path(__file__).parents[2]
DEEP = b"[" * 100_000 + b"]" * 100_000
LIMIT = 256 * MIB  # of address space beyond what the libraries take
BIG = 320 * MIB  # more than that


def packed_zeros(path):
    packer = lzma.LZMACompressor(preset=0)
    with path.open("wb") as file:
        for _ in range(BIG // 2**21):
            file.write(packer.compress(bytes(2**21)))
        file.write(packer.flush())


def npz_zeros(path, method=zipfile.ZIP_DEFLATED):
    """Zeros in some MB."""
    with (
        zipfile.ZipFile(path, "w", method, compresslevel=1) as archive,
        archive.open("arr_0.npy", "w", force_zip64=True) as out,
    ):
        np.lib.format.write_array_header_1_0(
            out, {"descr": "|u1", "fortran_order": False, "shape": (BIG // 64**2, 64, 64, 1)}
        )
        for _ in range(BIG // 2**21):
            out.write(bytes(2**21))


def npz_claim(path):
    """A header of 10^12 images over one."""
    with zipfile.ZipFile(path, "w") as archive, archive.open("arr_0.npy", "w") as out:
        np.lib.format.write_array_header_1_0(
            out, {"descr": "|u1", "fortran_order": False, "shape": (10**12, 8, 8, 1)}
        )
        out.write(bytes(64))


def torch_zeros(path):
    torch.save({"a": torch.zeros(4)}, path)
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, raw in members.items():
            archive.writestr(name, bytes(BIG) if name.endswith("data/0") else raw)


def torch_view(path):
    """One number seen as 4 * 10^11 of them."""
    torch.save({"a": torch.zeros(1).expand(10**11)}, path)


def scores(path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    group = pa.table(
        {
            "score": pa.DictionaryArray.from_arrays(
                pa.array(np.zeros(10**6, np.int32)), pa.array([0.5])
            )
        }
    )
    with pq.ParquetWriter(path, group.schema, use_dictionary=True) as writer:
        for _ in range(30):
            writer.write_table(group, row_group_size=10**6)


READ = {
    "packed.jsonl.xz": (packed_zeros, lambda path: read_results([path])),
    "zeros.npz": (npz_zeros, lambda path: images.read_npz(path, (64, 64, 1))),
    "claim.npz": (npz_claim, lambda path: images.read_npz(path, (8, 8, 1))),
    "zeros.pt": (torch_zeros, layouts.read_tensors),
    "view.pt": (torch_view, layouts.read_tensors),
    "scores.parquet": (scores, untrusted_arrays.read_scores),
}


def limited(folder):
    """Read each in this process, with little memory, and print what is said of it; for a child."""
    pages = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (pages + LIMIT, pages + LIMIT))
    for name, (_, read) in READ.items():
        try:
            read(folder / name)
            outcome = "was read"
        except SaBenchError as error:
            outcome = f"refused: {error}"
        except MemoryError:
            outcome = "filled the memory"
        print(json.dumps([name, outcome]))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What is said of each file by a process with little memory."""
    folder = tmp_path_factory.mktemp("big")
    for name, (write, _) in READ.items():
        write(folder / name)
    code = (
        f"import sys; sys.path[:0] = [{str(Path(__file__).parent)!r}]\n"
        "import pyarrow.parquet, pandas, test_untrusted; from pathlib import Path\n"
        f"test_untrusted.limited(Path({str(folder)!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(line) for line in done.stdout.splitlines())


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="limits of address space")
@pytest.mark.parametrize("name", READ)
def test_a_file_that_would_fill_the_memory_is_refused_within_a_quarter_of_a_gigabyte(
    outcomes, name
):
    assert outcomes[name].startswith("refused: ")
    assert name in outcomes[name] or name == "scores.parquet"
    assert "\n" not in outcomes[name]


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("member", ["manifest.json", "cell/result.json"])
def test_members_are_stored_or_deflated(tmp_path, store_env, method, member):
    file = tmp_path / f"x{BUNDLED}"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(member, bytes(2**20), method)
    with pytest.raises(SaBenchError, match="compressed by another method than deflate"):
        open_bundle(file)


def test_a_directory_that_would_fill_the_memory_is_not_read(tmp_path):
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        archive.writestr("a", b"x")
    whole = bytearray(raw.getvalue())
    whole[-10:-6] = (2**31).to_bytes(4, "little")  # the table's length
    (tmp_path / "x.zip").write_bytes(whole)
    with pytest.raises(Unfit, match="members, more than"):
        untrusted_arrays.open_zip(tmp_path / "x.zip")


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (DEEP, "nested"),
        (b'{"a":' * 100 + b"1" + b"}" * 100, "nested deeper than 64"), (b"9" * 500, "number of 500 digits"),
        (b"[" + b"[]," * 4_500_000 + b"1]", "more values than can be right"), (b"\xff", "not UTF-8"), (b"{", "not JSON"),
        (b"", "not JSON"),
    ],
    ids=["deep", "deeper", "digits", "many", "latin", "open", "empty"],
)  # fmt: skip
def test_json_that_no_reader_can_bear_is_one_line(tmp_path, raw, says):
    path = tmp_path / "x.json"
    path.write_bytes(raw)
    with pytest.raises(Unfit, match=says):
        untrusted_text.read_json(path)
    with pytest.raises(SaBenchError, match=r"x\.json"):
        layouts.read_json(path)
    assert untrusted_text.parse_json(b"\xef\xbb\xbf" + b"[" * 60 + b"]" * 60)


@pytest.mark.parametrize(
    "name", ["model_index.json", "scheduler/scheduler_config.json", "unet/config.json"]
)
def test_a_list_where_an_object_belongs_is_one_line(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("[1]")
    with pytest.raises(SaBenchError, match="holds a list, not an object"):
        diffusers_folder.weights(tmp_path) if name.startswith("model") else layouts.read_json(path)


@pytest.mark.parametrize(
    ("part", "said", "says"),
    [
        ("unet", {"block_out_channels": [1], "layers_per_block": 10**9}, "1,000,000,000 layers"),
        (
            "unet",
            {"block_out_channels": [10**6], "layers_per_block": 1},
            "at least 9,000,000,000,000 weights",
        ),
        (
            "unet",
            {"block_out_channels": [8], "transformer_layers_per_block": [[10**9]]},
            "1,000,000,000 layers",
        ),
        ("vae", {"block_out_channels": ["a"]}, "cannot be right"),
        ("vae", {"block_out_channels": [8], "layers_per_block": -1}, "cannot be right"),
        ("text_encoder", {"vocab_size": 10**12}, "weights; its files hold 1,000 bytes"),
        (
            "text_encoder",
            {"num_hidden_layers": 10**9, "hidden_size": 1, "vocab_size": 1},
            "1,000,000,000 layers",
        ),
    ],
)
def test_a_network_that_its_weights_cannot_fill_is_refused_by_arithmetic(
    tmp_path, part, said, says
):
    with pytest.raises(SaBenchError, match=says):
        diffusers_folder.require_possible({part: said}, {part: 1000}, tmp_path)


def header(table, data=b"1234"):
    raw = json.dumps(table).encode() if not isinstance(table, bytes) else table
    return len(raw).to_bytes(8, "little") + raw + data


@pytest.mark.parametrize(
    "raw",
    [
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": ["0", 4]}}),
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}),
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}),
        header({"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4]}}),
        header({"a": {"dtype": "X", "shape": [1], "data_offsets": [0, 4]}}),
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}),
        header({"a": {"dtype": "F32", "shape": 1, "data_offsets": [0, 4]}}),
        header({key: {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]} for key in "ab"}),
        header({"a": [1]}), header([1]), header(b"{" + DEEP), header({"a": {}})[:12], b"\xff" * 8 + b"{}",
    ],
)  # fmt: skip
def test_offsets_and_shapes_that_do_not_fit_are_one_line(tmp_path, raw):
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw)
    for read in (layouts.read_tensors, lambda file: layouts.locate(str(file)), layouts.header):
        with pytest.raises(SaBenchError, match=r"x\.safetensors") as caught:
            read(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"scores": 1}, {"scores": {"forget_top1": "x"}}, {"scores": {"forget_top1": [[1]]}},
        {"scores": {"forget_top1": ["a"]}},
        {"scores": {"forget_top1": [1]}, "units": {"forget_top1": {"seed": [1]}}},
        {"scores": {"forget_top1": [1]}, "units": {"forget_top1": {"seed": [1], "prompt": ["x"]}}},
        {"scores": {}, "units": 1}, {"schema": None}, {"schema": 1e400}, {"flags": [1]},
        {"measurements": [1]},
        {"cost": [], "scores": {}}, None, [1], "x",
    ],
)  # fmt: skip
def test_packed_rows_of_wrong_types_are_one_line(tmp_path, changes):
    from result_rows import result_row

    row = result_row() | {"scores": {}} | changes if isinstance(changes, dict) else changes
    path = tmp_path / "x.jsonl.xz"
    path.write_bytes(lzma.compress(json.dumps(row).encode()))
    with pytest.raises(SaBenchError, match=r"x\.jsonl\.xz"):
        read_results([path])
