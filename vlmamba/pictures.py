"""Opening pictures: anything a user may hand over -> one upright RGB picture, or one clear line why not."""

import io
import logging
import warnings
from pathlib import Path
from typing import IO, Literal

import numpy as np
from PIL import Image, ImageOps

logger = logging.getLogger("vlmamba")

Picture = str | Path | bytes | Image.Image | np.ndarray

MAX_PIXELS = 89_478_485  # Pillow's own threshold: a quarter of a gigabyte as RGB

# The decoders that hostile bytes may reach; in Pillow's order of loading, so that common ones open fast.
_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "AVIF", "ICO")
_READABLE = "PNG, JPEG, GIF, BMP, PPM, WebP, TIFF, AVIF or ICO"
_ORIENTATION = 0x0112  # EXIF tag


Unusable = Literal["missing", "empty", "truncated", "undecodable", "bomb"]


class PictureError(ValueError):
    """A picture that cannot be used; the message is one line that says what to do, `reason` its kind."""

    def __init__(self, message: str, reason: Unusable = "undecodable") -> None:
        super().__init__(message)
        self.reason: Unusable = reason


def open_picture(source: Picture) -> Image.Image:
    """A path, an encoded file's bytes, a PIL picture or an array -> an upright RGB picture.

    Arrays are (h, w), (h, w, 1), (h, w, 3) or (h, w, 4): uint8, uint16, bool, or floats from 0 to 1. Of an
    animation the first frame is taken, and transparency is laid on white; both leave a note in the log.
    Raises PictureError for everything that is not a whole picture of at most MAX_PIXELS pixels.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _decode(source, "the picture")
    if isinstance(source, bytes):
        if not source:
            raise PictureError("the picture is empty: 0 bytes arrived", "empty")
        return _open(io.BytesIO(source), "the picture")
    path = Path(source)
    if path.is_dir():
        raise PictureError(f"{path} is a directory: name one picture in it")
    if not path.exists():
        raise PictureError(f"{path}: no such picture: check the path", "missing")
    if not (path.is_file() or path.is_fifo()):
        raise PictureError(f"{path} is not a file: name a picture")
    try:
        with path.open("rb") as file:
            if not file.peek(1):
                raise PictureError(f"{path} is empty: copy or download it again", "empty")
            return _open(file, str(path))
    except OSError as error:
        raise PictureError(f"{path} cannot be read: {error.strerror or error}") from None


def _open(file: IO[bytes], name: str) -> Image.Image:
    """Decodes a picture only after its header has shown an allowed format and size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd metadata, and of sizes, which _decode refuses
        try:
            opened = Image.open(file, formats=_FORMATS)
        except Image.DecompressionBombError:
            raise PictureError(_too_large(name), "bomb") from None
        except Exception:  # decoders raise anything on broken headers
            raise PictureError(
                f"{name} is not a picture that can be read: give a whole {_READABLE} file"
            ) from None
        with opened:
            return _decode(opened, name)


def _decode(opened: Image.Image, name: str) -> Image.Image:
    width, height = opened.size
    if width * height > MAX_PIXELS:
        raise PictureError(_too_large(name), "bomb")
    if width * height == 0:
        raise PictureError(f"{name} has no pixels: it is {width} x {height}")
    try:
        # MPO is the multi-picture JPEG that phones write; its further frames are depth or gain maps.
        if getattr(opened, "n_frames", 1) > 1 and opened.format != "MPO":
            logger.warning("%s has several frames: only the first is looked at", name)
            opened.seek(0)
        opened.load()
        if opened.getexif().get(_ORIENTATION, 1) != 1:
            opened = ImageOps.exif_transpose(opened)
        return _to_rgb(opened, name)
    except Exception as error:  # so do they on broken data
        reason = "truncated" if _ends_early(error) else "undecodable"
        raise PictureError(
            f"{name} is truncated or damaged: copy or download it again", reason
        ) from None


def _ends_early(error: Exception) -> bool:
    """Whether a decoder ran out of bytes; there is no other sign than its words."""
    return isinstance(error, EOFError) or "truncated" in str(error)


def _to_rgb(picture: Image.Image, name: str) -> Image.Image:
    """A decoded picture of any mode -> a new RGB picture."""
    if picture.mode.startswith(("I", "F")):
        return Image.fromarray(_to_8_bit(np.asarray(picture))).convert("RGB")
    if not picture.has_transparency_data:
        return picture.convert("RGB") if picture.mode != "RGB" else picture.copy()
    picture = picture.convert("RGBA")
    lowest, _ = picture.getchannel("A").getextrema()
    if lowest == 255:
        return picture.convert("RGB")
    logger.warning("%s is partly transparent: it is laid on white", name)
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture).convert("RGB")


def _to_8_bit(values: np.ndarray) -> np.ndarray:
    """Grey values of more than 8 bits -> uint8: integers are of 16 bits, floats of 0 to 1 (else of 0 to 255)."""
    if values.dtype.kind == "f":
        values = np.nan_to_num(values)
        scale = 255.0 if values.max() <= 1 else 1.0
        return np.clip(values * scale, 0, 255).round().astype(np.uint8)
    return (np.clip(values, 0, 65535) >> 8).astype(np.uint8)


def _from_array(array: np.ndarray) -> Image.Image:
    shape = "x".join(map(str, array.shape))
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise PictureError(
            f"the array is {shape}: a picture is (h, w), (h, w, 1), (h, w, 3) or (h, w, 4)"
        )
    if array.size == 0:
        raise PictureError(f"the array is {shape}: it has no pixels")
    if array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    elif array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif array.dtype.kind == "f":
        if not (array.min() >= 0 and array.max() <= 1):  # also false for NaN
            raise PictureError(
                "the array holds floats outside 0 to 1: scale it, or convert it to uint8"
            )
        array = (array * 255).round().astype(np.uint8)
    elif array.dtype != np.uint8:
        raise PictureError(
            f"the array is of {array.dtype}: convert it to uint8 (0 to 255) or floats (0 to 1)"
        )
    grey = array.ndim == 3 and array.shape[2] == 1
    return _decode(Image.fromarray(array[..., 0] if grey else array), "the array")


def _too_large(name: str) -> str:
    return f"{name} has more than {MAX_PIXELS:,} pixels: shrink it first"
