"""Strangers' images: the value a viewer would show, or one line that names the file. Never a guess."""

import io
import os
import pickle
import random
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from sa_bench.core.errors import MissingAsset, SaBenchError
from sa_bench.data import images

GREY = np.arange(28 * 28, dtype=np.uint8).reshape(28, 28)
NOISE = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
SIZE = (28, 28)
SHAPE = (28, 28, 1)


def error_of(call, *arguments):
    """The one line that a person sees."""
    with pytest.raises(SaBenchError) as caught:
        call(*arguments)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 500
    return text


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width, height, depth=8, color=0, rows=b"", before=b""):
    """A PNG put together by hand, so that it can claim what no encoder would write."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    parts = [
        chunk(b"IHDR", header),
        before,
        chunk(b"IDAT", zlib.compress(rows)),
        chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


class Trap:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("seed", [0, 1, None], ids=["shuffled", "shuffled again", "reversed"])
def test_order_is_natural_whatever_the_order_of_creation(tmp_path, seed):
    numbers = list(range(12))
    if seed is None:
        numbers.reverse()
    else:
        random.Random(seed).shuffle(numbers)
    for i in numbers:
        Image.new("L", SIZE, 10 * i).save(tmp_path / f"{i}.png")
    array, files = images.read_folder(tmp_path, 1, SIZE)
    assert [f.name for f in files] == [f"{i}.png" for i in range(12)]
    assert array[:, 0, 0, 0].tolist() == [
        10 * i for i in range(12)
    ]  # image 10 is the eleventh, not the third


def test_names_that_count_as_equal_still_have_one_order(tmp_path):
    names = ["1.png", "01.png", "001.png", "a1.PNG", "A1.png"]
    orders = []
    for order in (names, names[::-1]):
        folder = tmp_path / str(len(orders))
        folder.mkdir()
        for name in order:
            (folder / name).touch()
        orders.append([p.name for p in images.list_image_files(folder)])
    assert orders[0] == orders[1]
    paths = [tmp_path / name for name in names]
    assert len({str(images.natural_order(p)) for p in paths}) == len(
        names
    )  # no tie that a file system could decide


def test_hidden_files_are_ignored_and_suffixes_may_be_upper_case(tmp_path):
    for name in ("a.PNG", "b.Jpg", "c.WEBP", "d.bmp"):
        Image.new("L", SIZE, 9).save(tmp_path / name)
    for name in (".hidden.png", "._a.png", "notes.txt", ".DS_Store", "Thumbs.db"):
        (tmp_path / name).write_text("no image")
    array, files = images.read_folder(tmp_path, 1, SIZE)
    assert [f.name for f in files] == ["a.PNG", "b.Jpg", "c.WEBP", "d.bmp"]
    assert array.shape == (4, *SHAPE)


@pytest.mark.parametrize("content", [None, "notes.txt", "._1.png", "1.tiff", "inner/1.png"])
def test_a_folder_without_images_is_an_error_and_not_an_empty_set(tmp_path, content):
    if content:
        (tmp_path / content).parent.mkdir(exist_ok=True)
        (tmp_path / content).write_text("x")
    text = error_of(images.read_folder, tmp_path, 1, SIZE)
    assert str(tmp_path) in text
    assert ".png" in text
    assert "directly" in text


def as_rgba(alpha, color):
    def make():
        return Image.new("RGBA", SIZE, (*color, alpha))

    return make


def palette(index, transparency=None):
    def make():
        image = Image.new("P", SIZE, index)
        image.putpalette([255, 255, 255, 0, 0, 0, 200, 0, 0])
        if transparency is not None:
            image.info["transparency"] = transparency
        return image

    return make


# Every case beside the RGB that a viewer shows on white paper.
SHOWN = {
    "RGBA, red but fully transparent": (as_rgba(0, (255, 0, 0)), (255, 255, 255)),
    "RGBA, opaque": (as_rgba(255, (10, 20, 30)), (10, 20, 30)),
    "RGBA, half": (as_rgba(128, (0, 0, 0)), (127, 127, 127)),
    "LA, transparent black": (lambda: Image.new("LA", SIZE, (0, 0)), (255, 255, 255)),
    "LA, opaque": (lambda: Image.new("LA", SIZE, (77, 255)), (77, 77, 77)),
    "palette: its colour, not its index": (palette(0), (255, 255, 255)),
    "palette, black": (palette(1), (0, 0, 0)),
    "palette, colour": (palette(2), (200, 0, 0)),
    "palette, a transparent index": (palette(2, 2), (255, 255, 255)),
    "palette, half transparent": (palette(1, bytes([255, 128])), (127, 127, 127)),
    "1 bit, white": (lambda: Image.new("1", SIZE, 1), (255, 255, 255)),
    "1 bit, black": (lambda: Image.new("1", SIZE, 0), (0, 0, 0)),
    "grey": (lambda: Image.new("L", SIZE, 77), (77, 77, 77)),
    "RGB": (lambda: Image.new("RGB", SIZE, (10, 20, 30)), (10, 20, 30)),
}


@pytest.mark.parametrize("case", SHOWN)
def test_pixels_are_what_a_viewer_shows_on_white(tmp_path, case):
    make, expected = SHOWN[case]
    path = tmp_path / "x.png"
    make().save(path)
    rgb = images.read_image(path, 3)
    assert rgb.shape == (28, 28, 3)
    assert rgb.dtype == np.uint8
    assert np.abs(rgb.astype(int) - expected).max() <= 1
    luma = np.array(Image.new("RGB", (1, 1), expected).convert("L")).item()
    grey = images.read_image(path, 1)
    assert grey.shape == SHAPE
    assert np.abs(grey.astype(int) - luma).max() <= 1


def test_a_grey_picture_is_the_same_in_every_mode(tmp_path):
    """Saved as L, RGB, opaque RGBA, palette or 16 bits: not one grey value may differ."""
    image = Image.fromarray(GREY)
    opaque = image.convert("RGBA")
    coded = image.convert("P")
    deep = Image.fromarray(GREY.astype(np.uint16) * 257)
    for i, form in enumerate(
        [image, image.convert("RGB"), opaque, coded, image.convert("LA"), deep]
    ):
        form.save(tmp_path / f"{i}.png")
    array, _ = images.read_folder(tmp_path, 1, SIZE)
    assert (array == GREY[None, :, :, None]).all()
    colour, _ = images.read_folder(tmp_path, 3, SIZE)
    assert (colour == GREY[None, :, :, None]).all()


@pytest.mark.parametrize(
    ("deep", "shown"), [(0, 0), (255, 0), (256, 1), (40000, 156), (65535, 255)]
)
def test_sixteen_bit_grey_is_scaled_and_not_clipped_to_white(tmp_path, deep, shown):
    path = tmp_path / "x.png"
    Image.fromarray(np.full(SIZE, deep, np.uint16)).save(path)
    assert np.unique(images.read_image(path, 1)).tolist() == [shown]
    assert np.unique(images.read_image(path, 3)).tolist() == [shown]


def test_sixteen_bit_colour_and_grey_agree(tmp_path):
    rows = b"".join(b"\0" + struct.pack(">3H", *[40000] * 3) * 28 for _ in range(28))
    (tmp_path / "x.png").write_bytes(png(28, 28, depth=16, color=2, rows=rows))
    assert np.unique(images.read_image(tmp_path / "x.png", 1)).tolist() == [156]


def test_a_transparent_sixteen_bit_grey_is_paper(tmp_path):
    deep = np.full(SIZE, 40000, np.uint16)
    deep[:14] = 512
    Image.fromarray(deep).save(tmp_path / "x.png", transparency=512)
    array = images.read_image(tmp_path / "x.png", 1)
    assert np.unique(array[:14]).tolist() == [255]
    assert np.unique(array[14:]).tolist() == [156]


@pytest.mark.parametrize("channels", [1, 3])
def test_cmyk_without_ink_is_white(tmp_path, channels):
    Image.new("CMYK", SIZE, 0).save(tmp_path / "x.jpg", quality=100)
    assert images.read_image(tmp_path / "x.jpg", channels).min() == 255


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_that_a_camera_wrote_is_applied(tmp_path, orientation):
    """A digit photographed on its side must be judged the way its maker sees it."""
    stored = np.zeros((16, 16), np.uint8)
    stored[:8, :8] = 255  # one bright corner: every orientation puts it somewhere known
    corner = {1: "tl", 2: "tr", 3: "br", 4: "bl", 5: "tl", 6: "tr", 7: "br", 8: "bl"}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "x.jpg", exif=exif, quality=100)
    array = images.read_image(tmp_path / "x.jpg", 1)[..., 0] > 128
    quarters = {"tl": array[:8, :8], "tr": array[:8, 8:], "bl": array[8:, :8], "br": array[8:, 8:]}
    assert [name for name, quarter in quarters.items() if quarter.all()] == [corner]


def second(kind):
    return {"save_all": True, "append_images": [Image.new("RGB", SIZE, "white")]}


BROKEN = {
    "empty.png": (lambda: b"", "it is empty"),
    "empty.jpg": (lambda: b"", "it is empty"),
    "text.png": (lambda: b"these are no pixels", "none of PNG"),
    "gif.png": (lambda: encoded(Image.new("L", SIZE), "GIF"), "none of PNG"),
    "eps.png": (lambda: encoded(Image.new("L", SIZE), "EPS"), "none of PNG"),
    "float.png": (
        lambda: encoded(Image.fromarray(np.full(SIZE, 0.5, np.float32)), "TIFF"),
        "none of PNG",
    ),
    "int32.png": (lambda: encoded(Image.new("I", SIZE, 70000), "TIFF"), "none of PNG"),
    "animated.png": (lambda: encoded(Image.new("RGB", SIZE), "PNG", **second("PNG")), "2 frames"),
    "animated.webp": (
        lambda: encoded(Image.new("RGB", SIZE), "WEBP", **second("WEBP")),
        "2 frames",
    ),
    "cut.png": (lambda: encoded(Image.fromarray(NOISE), "PNG")[:400], "truncated"),
    "header.png": (lambda: encoded(Image.fromarray(GREY), "PNG")[:20], ""),
    "cut.jpg": (lambda: encoded(Image.fromarray(GREY), "JPEG")[:-100], "truncated"),
    "cut.webp": (lambda: encoded(Image.fromarray(GREY).convert("RGB"), "WEBP")[:-100], ""),
    "cut.bmp": (lambda: encoded(Image.fromarray(GREY), "BMP")[:-100], "truncated"),
    "checksum.png": (lambda: encoded(Image.fromarray(GREY), "PNG").replace(b"IHDR", b"IHDr"), ""),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_is_no_still_picture_is_named(tmp_path, name, recwarn, capfd):
    make, why = BROKEN[name]
    good, bad = tmp_path / "0.png", tmp_path / name
    Image.fromarray(GREY).save(good)
    bad.write_bytes(make())
    text = error_of(images.read_folder, tmp_path, 1, SIZE)
    assert str(bad) in text
    assert why in text
    assert not recwarn.list
    assert capfd.readouterr() == ("", "")


def test_a_cameras_preview_frame_does_not_make_its_photo_an_animation(tmp_path):
    photo, preview = Image.new("RGB", SIZE, (90, 90, 90)), Image.new("RGB", SIZE, "white")
    photo.save(tmp_path / "x.jpg", "MPO", save_all=True, append_images=[preview])
    with Image.open(tmp_path / "x.jpg") as image:
        assert (image.format, image.n_frames) == ("MPO", 2)
    assert np.unique(images.read_image(tmp_path / "x.jpg", 1)).tolist() == [90]


@pytest.mark.parametrize(
    "kind", ["folder", "link to nothing", "link to itself", "pipe", "link to a folder"]
)
def test_what_is_called_an_image_but_is_no_file_is_named_and_never_skipped(tmp_path, kind):
    """Skipping it would score fewer images than the person believes; a pipe would wait for ever."""
    Image.fromarray(GREY).save(tmp_path / "0.png")
    path = tmp_path / "x.png"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link to a folder":
        path.symlink_to(tmp_path)
    else:
        path.symlink_to(path if kind == "link to itself" else tmp_path / "gone.png")
    text = error_of(images.read_folder, tmp_path, 1, SIZE)
    assert str(path) in text
    assert error_of(images.list_image_files, tmp_path) == text


def test_a_link_to_an_image_is_that_image(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "there", "PNG")
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "x.png").symlink_to(tmp_path / "there")
    assert (images.read_folder(folder, 1, SIZE)[0][0, ..., 0] == GREY).all()


@pytest.mark.parametrize("what", ["nowhere", "a file"])
def test_a_folder_that_cannot_be_listed_is_named(tmp_path, what):
    path = tmp_path / "x"
    if what == "a file":
        path.write_text("")
    assert str(path) in error_of(images.read_folder, path, 1, SIZE)


@pytest.mark.parametrize(
    ("width", "height"), [(7100, 7100), (9800, 9800), (60000, 60000), (2**31 - 1, 1)]
)
def test_a_decompression_bomb_is_refused_without_decoding(
    tmp_path, monkeypatch, recwarn, width, height
):
    def decode(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decode)
    (tmp_path / "x.png").write_bytes(png(width, height, rows=b"\0" * 1000))
    text = error_of(images.read_image, tmp_path / "x.png", 1)
    assert str(tmp_path / "x.png") in text
    assert "refusing to decode" in text
    assert not recwarn.list  # Pillow's own warning would be a second line


@pytest.mark.parametrize("other", [(64, 64), (512, 600), (28, 29), (1, 1)])
def test_another_size_is_an_error_with_the_file_and_both_sizes(tmp_path, other):
    Image.fromarray(GREY).save(tmp_path / "1.png")
    Image.new("L", other).save(tmp_path / "2.png")
    text = error_of(images.read_folder, tmp_path, 1, SIZE)
    assert str(tmp_path / "2.png") in text
    assert f"{other[0]}x{other[1]}" in text
    assert "28x28" in text


@pytest.mark.parametrize(
    ("name", "kind", "lossy"),
    [
        ("a.png", "PNG", False),
        ("a.bmp", "BMP", False),
        ("a.jpg", "PNG", False),
        ("a.jpg", "JPEG", True),
        ("a.png", "JPEG", True),
        ("a.webp", "WEBP", True),
    ],
)
def test_lossy_is_told_by_content_and_not_by_name(tmp_path, name, kind, lossy):
    (tmp_path / name).write_bytes(encoded(Image.fromarray(GREY), kind))
    assert images.is_lossy(tmp_path / name) is lossy


def stack(n=4):
    return np.random.default_rng(0).integers(0, 256, (n, *SHAPE), dtype=np.uint8)


LABELS = np.array([0, 1, 2, 1])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    "arrays",
    [
        {"arr_0": stack(), "labels": LABELS},
        {"arr_0": stack(), "arr_1": LABELS},
        {"arr_0": stack()[..., 0], "labels": LABELS},
        {"arr_0": np.asfortranarray(stack()), "labels": LABELS},
        {"arr_0": stack(), "labels": LABELS.astype(np.uint8)},
        {"arr_0": stack(), "labels": LABELS.astype(">i2")},
        {"arr_0": stack(), "labels": LABELS, "arr_1": np.zeros(3), "names": np.array(["x"])},
    ],
    ids=[
        "labels",
        "arr_1",
        "no channel axis",
        "Fortran",
        "uint8 labels",
        "big-endian labels",
        "more arrays",
    ],
)
def test_a_correct_npz_is_read_as_it_was_written(tmp_path, arrays, save):
    save(tmp_path / "x.npz", **arrays)
    array, labels = images.read_npz(tmp_path / "x.npz", SHAPE)
    assert array.dtype == np.uint8
    assert (array == stack()).all()
    assert labels.dtype == np.int64
    assert labels.tolist() == LABELS.tolist()


def test_labels_are_optional_and_say_so(tmp_path):
    np.savez(tmp_path / "x.npz", stack())
    array, labels = images.read_npz(tmp_path / "x.npz", SHAPE)
    assert (array == stack()).all()
    assert labels is None


BEYOND = np.array([0, 1, 2**64 - 1, 1], np.uint64)
WRONG = {
    "another key": ({"images": stack()}, "no array arr_0 (found: images)"),
    "no arrays": ({}, "found: nothing"),
    "NCHW": ({"arr_0": np.zeros((4, 1, 28, 28), np.uint8)}, "NCHW"),
    "RGB": ({"arr_0": np.zeros((4, 28, 28, 3), np.uint8)}, "(4, 28, 28, 3), must be (N, 28, 28, 1)"),
    "another size": ({"arr_0": np.zeros((4, 32, 32, 1), np.uint8)}, "(4, 32, 32, 1)"),
    "flat": ({"arr_0": np.zeros((4, 784), np.uint8)}, "(4, 784)"),
    "one number": ({"arr_0": np.uint8(3)}, "()"),
    "floats in 0..1": ({"arr_0": stack() / 255}, "arr_0 is float64, must be uint8"),
    "floats in 0..255": ({"arr_0": stack().astype(np.float32)}, "arr_0 is float32"),
    "int64": ({"arr_0": stack().astype(np.int64)}, "arr_0 is int64"),
    "bool": ({"arr_0": stack() > 128}, "arr_0 is bool"),
    "text": ({"arr_0": np.array(["a", "b"])}, "arr_0 is <U1"),
    "no rows": ({"arr_0": stack(0), "labels": LABELS[:0]}, "0 images"),
    "too few labels": ({"arr_0": stack(), "labels": LABELS[:3]}, "labels must be 4 integers, got int64 (3,)"),
    "too many arr_1": ({"arr_0": stack(), "arr_1": np.arange(9)}, "arr_1 must be 4 integers"),
    "float labels": ({"arr_0": stack(), "labels": LABELS / 1}, "got float64"),
    "bool labels": ({"arr_0": stack(), "labels": LABELS > 0}, "got bool"),
    "names as labels": ({"arr_0": stack(), "labels": np.array(["zero"] * 4)}, "got <U4"),
    "one-hot labels": ({"arr_0": stack(), "labels": np.eye(4, 10, dtype=int)}, "(4, 10)"),
    "a label beyond int64": ({"arr_0": stack(), "labels": BEYOND}, "labels[2]"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_npz_is_refused_by_the_name_of_its_problem(tmp_path, case):
    arrays, why = WRONG[case]
    np.savez(tmp_path / "x.npz", **arrays)
    text = error_of(images.read_npz, tmp_path / "x.npz", SHAPE)
    assert str(tmp_path / "x.npz") in text
    assert why in text


def whole_npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **(arrays or {"arr_0": stack(), "labels": LABELS}))
    return buffer.getvalue()


def zipped(name, data, method=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr(name, data)
    return buffer.getvalue()


def npy(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def claims_more_than_it_holds():
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999, 28, 28, 1), }"
    header += b" " * (117 - len(header)) + b"\n"
    return zipped(
        "arr_0.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"\0" * 99
    )


def damaged_inside():
    data = bytearray(whole_npz())
    data[400:420] = bytes(20)
    return bytes(data)


DAMAGED = {
    "empty": lambda: b"",
    "text": lambda: b"no archive at all",
    "cut short": lambda: whole_npz()[:-200],
    "cut to half": lambda: whole_npz()[:1500],
    "an npy": lambda: npy(stack()),
    "a pickle": lambda: pickle.dumps(stack()),
    "a member that is no array": lambda: zipped("arr_0.npy", b"text"),
    "a member without suffix": lambda: zipped("arr_0", b"text"),
    "a member cut short": lambda: zipped("arr_0.npy", npy(stack())[:500]),
    "a claim beyond memory": claims_more_than_it_holds,
    "flipped bytes": damaged_inside,
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_npz_is_one_line(tmp_path, case):
    path = tmp_path / "x.npz"
    path.write_bytes(DAMAGED[case]())
    text = error_of(images.read_npz, path, SHAPE)
    assert str(path) in text
    assert "np.savez" in text


@pytest.mark.parametrize("key", ["arr_0", "labels", "arr_1"])
def test_a_pickle_inside_an_npz_is_never_run(tmp_path, key):
    trap = np.array([Trap(tmp_path / "sprung")] * 4, object)
    arrays = {"arr_0": stack(), key: trap}
    np.savez(tmp_path / "x.npz", **arrays)
    text = error_of(images.read_npz, tmp_path / "x.npz", SHAPE)
    assert "holds objects, not numbers" in text
    assert not (tmp_path / "sprung").exists()
    with np.load(tmp_path / "x.npz", allow_pickle=True) as archive:
        archive[key]  # the trap does work where pickles are allowed
    assert (tmp_path / "sprung").exists()


def test_a_bare_pickle_called_npz_is_never_run(tmp_path):
    (tmp_path / "x.npz").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    error_of(images.read_npz, tmp_path / "x.npz", SHAPE)
    assert not (tmp_path / "sprung").exists()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def raw_png(width, height, bits, colour, rows, transparent=None):
    """A PNG of these packed rows, each with its filter's byte."""
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))]
    parts += [chunk(b"tRNS", transparent)] if transparent is not None else []
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [*parts, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    )


@pytest.mark.parametrize("switch", [False, True], ids=["as it is", "somebody set Pillow's switch"])
@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "bmp"])
def test_half_a_file_is_refused_whoever_set_what(tmp_path, monkeypatch, ending, switch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", switch)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    path = tmp_path / f"a.{ending}"
    noise.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SaBenchError, match="a\\." + ending):
        images.read_image(path, 3)
    path.write_bytes(whole)
    assert images.read_image(path, 3).shape == (64, 64, 3)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is switch


@pytest.mark.parametrize("rows", [2, 3])
def test_a_png_that_lacks_rows_is_refused(tmp_path, rows):
    path = tmp_path / "a.png"
    path.write_bytes(raw_png(4, 4, 8, 0, b"\x00\x01\x02\x03\x04" * rows))
    with pytest.raises(SaBenchError, match="cut short"):
        images.read_image(path, 1)
    path.write_bytes(raw_png(4, 4, 8, 0, b"\x00\x01\x02\x03\x04" * 4))
    assert images.read_image(path, 1).max() == 4


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
@pytest.mark.parametrize("size", [(1, 1), (5, 3), (13, 9)])
def test_every_whole_png_has_all_of_its_rows(tmp_path, mode, size):
    """The count of bytes is the file format's, interlaced or not."""
    from sa_bench.data import png

    image = Image.new(mode, size)
    image.save(tmp_path / "a.png")
    facts = png.header(tmp_path / "a.png")
    assert (facts.width, facts.height) == size
    assert not png.rows_missing(tmp_path / "a.png", facts)
    assert png.Header(*size, 8, 0, True).size == sum(
        rows * (1 + columns)
        for x, y, dx, dy in png.PASSES
        if (columns := len(range(x, size[0], dx))) and (rows := len(range(y, size[1], dy)))
    )


@pytest.mark.parametrize(
    ("bits", "rows", "transparent", "grey"),
    [
        (1, b"\x00\x50", 0, [255, 255, 255, 255]),
        (2, b"\x00\x1b", 0, [255, 85, 170, 255]),
        (2, b"\x00\x1b", 1, [0, 255, 170, 255]),
        (4, b"\x00\x01\x2f", 2, [0, 17, 255, 255]),
        (8, b"\x00\x00\x11\x22\xff", 17, [0, 255, 34, 255]),
    ],
)
def test_a_transparent_grey_of_few_bits_shows_the_paper(tmp_path, bits, rows, transparent, grey):
    path = tmp_path / "a.png"
    path.write_bytes(raw_png(4, 1, bits, 0, rows, struct.pack(">H", transparent)))
    assert images.read_image(path, 1).flatten().tolist() == grey


def test_a_transparent_colour_of_16_bits_is_refused(tmp_path):
    path = tmp_path / "a.png"
    rows = b"\x00" + struct.pack(">6H", 1, 2, 3, 300, 2, 3)
    path.write_bytes(raw_png(2, 1, 16, 2, rows, struct.pack(">3H", 1, 2, 3)))
    with pytest.raises(SaBenchError, match="alpha channel"):
        images.read_image(path, 3)
    path.write_bytes(raw_png(2, 1, 16, 2, rows))
    assert images.read_image(path, 3).shape == (1, 2, 3)


@pytest.mark.parametrize("variable", ["SA_BENCH_DATA", "SA_BENCH_WEIGHTS", "SA_BENCH_MIRROR"])
def test_a_named_folder_that_is_not_there_is_an_error_before_work(tmp_path, monkeypatch, variable):
    import sa_bench
    from sa_bench.core import settings

    monkeypatch.setenv(variable, str(tmp_path / "gone"))
    with pytest.raises(MissingAsset, match=rf"{variable}=.*gone does not exist"):
        settings.require_folders()
    with pytest.raises(MissingAsset, match=variable):
        sa_bench.run("mnist_0", "relabel", scale="quick", out=tmp_path / "out")
    with pytest.raises(MissingAsset, match=variable):
        sa_bench.evaluate(tmp_path, "mnist_0")
    assert not (tmp_path / "out").exists()
    monkeypatch.setenv(variable, str(tmp_path))
    settings.require_folders()
