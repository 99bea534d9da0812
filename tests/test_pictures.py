"""Every kind of picture a user may hand over, good and bad."""

import contextlib
import io
import os
import re
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlmamba import pictures
from vlmamba.pictures import PictureError, open_picture

RED, GREEN, WHITE = (255, 0, 0), (0, 255, 0), (255, 255, 255)


def encoded(picture: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(width: int = 40, height: int = 30) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def message(source) -> str:
    with pytest.raises(PictureError) as caught:
        open_picture(source)
    text = str(caught.value)
    assert "\n" not in text
    assert not re.search("0x[0-9a-f]{4}", text), "an address of memory has leaked"
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return text


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF"])
def test_path_bytes_picture_and_array_give_the_same_pixels(tmp_path, kind):
    picture = photo()
    path = tmp_path / "a picture"
    path.write_bytes(encoded(picture, kind))
    sources = [path, str(path), path.read_bytes(), picture, np.asarray(picture)]
    for source in sources:
        opened = open_picture(source)
        assert opened.mode == "RGB"
        assert np.array_equal(opened, picture)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF"])
def test_lossy_formats_open(kind):
    opened = open_picture(encoded(photo(), kind))
    assert (opened.mode, opened.size) == ("RGB", (40, 30))


def test_the_source_picture_is_left_alone():
    picture = photo()
    opened = open_picture(picture)
    opened.putpixel((0, 0), RED)
    assert np.array_equal(picture, photo())


def test_missing_directory_empty_and_special_files(tmp_path):
    assert (
        message(tmp_path / "cat.png") == f"{tmp_path / 'cat.png'}: no such picture: check the path"
    )
    assert "is a directory" in message(tmp_path)
    empty = tmp_path / "empty.png"
    empty.touch()
    assert "is empty" in message(empty)
    assert "is empty" in message(b"")
    assert "is not a file" in message("/dev/null")


def test_a_pipe_is_read(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    data = encoded(photo(), "PNG")
    writer = threading.Thread(target=pipe.write_bytes, args=(data,))
    writer.start()
    assert np.array_equal(open_picture(pipe), photo())
    writer.join()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path):
    path = tmp_path / "secret.png"
    path.write_bytes(encoded(photo(), "PNG"))
    path.chmod(0)
    assert "Permission denied" in message(path)


@pytest.mark.parametrize(
    "data", [b"hello, I am text\n", b"\x00" * 100, b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\x89PNG"]
)
def test_what_is_no_picture(tmp_path, data):
    path = tmp_path / "text.png"
    path.write_bytes(data)
    assert "text.png is not a picture that can be read: give a whole PNG, JPEG" in message(path)
    assert message(data).startswith("the picture is not a picture")


@pytest.mark.parametrize("kind", ["PCX", "TGA", "EPS"])
def test_decoders_that_no_user_needs_are_not_reached(kind):
    assert "is not a picture that can be read" in message(encoded(photo(), kind))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM"])
@pytest.mark.parametrize("part", [0.5, 0.9])
def test_truncated(kind, part):
    data = encoded(photo(200, 200), kind)
    expected = "give a whole" if kind == "WEBP" else "truncated or damaged"
    assert expected in message(data[: int(len(data) * part)])


def test_random_damage_never_escapes_as_another_error():
    """Whatever the bytes, the result is a picture or a PictureError."""
    rng = np.random.default_rng(1)
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM"):
        whole = np.frombuffer(encoded(photo(), kind), np.uint8)
        for _ in range(40):
            broken = whole.copy()
            broken[rng.integers(0, len(broken), 6)] = rng.integers(0, 256, 6)
            with contextlib.suppress(PictureError):
                assert open_picture(broken.tobytes()).mode == "RGB"


def test_animation_gives_its_first_frame_and_a_note(caplog):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN)]
    for kind in ("GIF", "WEBP", "PNG"):
        caplog.clear()
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        red, green, _ = open_picture(data).getpixel((4, 4))
        assert red > 200 > 50 > green
        assert [r.getMessage() for r in caplog.records] == [
            "the picture has several frames: only the first is looked at"
        ]
        assert caplog.records[0].name == "vlmamba"


def test_animation_that_was_left_at_its_end_gives_its_first_frame():
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN)]
    animation = Image.open(
        io.BytesIO(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    )
    animation.seek(1)
    assert open_picture(animation).getpixel((4, 4)) == RED


def test_an_ordinary_picture_leaves_no_note(caplog):
    open_picture(encoded(photo(), "PNG"))
    open_picture(encoded(Image.new("RGBA", (4, 4), (*RED, 255)), "PNG"))
    assert not caplog.records


@pytest.mark.parametrize(
    "picture",
    [
        Image.new("RGBA", (4, 4), (*RED, 0)),
        Image.new("LA", (4, 4), (0, 0)),
        Image.new("RGBA", (4, 4), (*RED, 0)).quantize(4),
    ],
    ids=["rgba", "la", "palette"],
)
def test_transparency_is_laid_on_white_with_a_note(picture, caplog):
    assert open_picture(encoded(picture, "PNG")).getpixel((2, 2)) == WHITE
    assert "partly transparent" in caplog.text


def test_half_transparency_blends():
    red, green, blue = open_picture(Image.new("RGBA", (2, 2), (255, 0, 0, 128))).getpixel((0, 0))
    assert red == 255
    assert green == blue == 127


def test_transparent_colour_of_an_rgb_png(caplog):
    picture = Image.new("RGB", (4, 4), GREEN)
    picture.putpixel((0, 0), RED)
    opened = open_picture(encoded(picture, "PNG", transparency=RED))
    assert opened.getpixel((0, 0)) == WHITE
    assert opened.getpixel((1, 1)) == GREEN


def test_palette():
    assert (
        open_picture(encoded(Image.new("RGB", (4, 4), RED).quantize(4), "PNG")).getpixel((1, 1))
        == RED
    )


def test_cmyk():
    data = encoded(Image.new("RGB", (16, 16), RED).convert("CMYK"), "JPEG", quality=95)
    red, green, blue = open_picture(data).getpixel((8, 8))
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (0x80FF, 0x80), (65535, 255)])
def test_16_bit_grey_is_scaled_not_clipped(value, expected):
    grey = np.full((4, 4), value, np.uint16)
    for source in (
        encoded(Image.fromarray(grey), "PNG"),
        encoded(Image.fromarray(grey), "TIFF"),
        grey,
    ):
        assert open_picture(source).getpixel((1, 1)) == (expected,) * 3
    wide = Image.fromarray(grey.astype(np.int32))
    assert open_picture(wide).getpixel((1, 1)) == (expected,) * 3


def test_16_bit_colour():
    """Pillow cannot write such a PNG, so it is put together by hand."""
    rows = b"".join(b"\x00" + struct.pack(">HHH", 65535, 0, 0x8000) * 2 for _ in range(2))
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)
    assert open_picture(data).getpixel((1, 1)) == (255, 0, 128)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize(
    ("value", "expected"), [(0.5, 128), (1.0, 255), (200.0, 200), (-3.0, 0), (np.nan, 0)]
)
def test_float_tiff(value, expected):
    data = encoded(Image.fromarray(np.full((4, 4), value, np.float32)), "TIFF")
    assert open_picture(data).getpixel((1, 1)) == (expected,) * 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_undone(orientation):
    """The corner that the camera's metadata calls the top left is red."""
    upright = Image.new("RGB", (32, 16), GREEN)
    upright.paste(RED, (0, 0, 8, 8))
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("PNG", "JPEG"):
        options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
        opened = open_picture(encoded(stored, kind, exif=exif, **options))
        assert opened.size == (32, 16)
        assert np.abs(np.asarray(opened, int) - np.asarray(upright, int)).max() < 30


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
def test_extreme_shapes(size):
    assert open_picture(encoded(Image.new("RGB", size, RED), "PNG")).size == size


@pytest.mark.parametrize("side", [9_500, 20_000])
def test_decompression_bomb_is_refused_before_it_is_decoded(side, monkeypatch):
    """A picture of a few bytes that claims a gigabyte; its data are never asked for."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(b"\x00" * 1000))
    )
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("the bomb was decoded"))
    assert message(data) == "the picture has more than 89,478,485 pixels: shrink it first"


def test_size_limit_holds_without_pillows_own(monkeypatch):
    monkeypatch.setattr(pictures, "MAX_PIXELS", 1199)
    assert "more than 1,199 pixels" in message(encoded(photo(), "PNG"))
    assert "more than 1,199 pixels" in message(photo())
    assert "more than 1,199 pixels" in message(np.asarray(photo()))


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.full((2, 3), 7, np.uint8), (7, 7, 7)),
        (np.full((2, 3, 1), 7, np.uint8), (7, 7, 7)),
        (np.full((2, 3, 3), 0.5), (128, 128, 128)),
        (np.full((2, 3, 3), 1.0, np.float32), (255, 255, 255)),
        (np.ones((2, 3), bool), (255, 255, 255)),
        (np.full((2, 3, 3), 0x1234, np.uint16), (0x12, 0x12, 0x12)),
        (np.zeros((2, 3, 4), np.uint8), (255, 255, 255)),
    ],
)
def test_arrays(array, expected):
    opened = open_picture(array)
    assert opened.size == (3, 2)
    assert opened.getpixel((1, 1)) == expected


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((2, 3, 2), np.uint8), "the array is 2x3x2"),
        (np.zeros((3, 2, 2), np.uint8), "a picture is"),
        (np.zeros(5, np.uint8), "the array is 5"),
        (np.zeros((0, 3), np.uint8), "no pixels"),
        (np.full((2, 2), 1.5), "outside 0 to 1"),
        (np.full((2, 2), np.nan), "outside 0 to 1"),
        (np.zeros((2, 2), np.int64), "int64"),
        (np.zeros((2, 2), complex), "complex"),
    ],
)
def test_bad_arrays(array, reason):
    assert reason in message(array)


def test_a_relative_path_of_odd_letters(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("чашка и кот.png").write_bytes(encoded(photo(), "PNG"))
    assert open_picture("чашка и кот.png").size == (40, 30)
