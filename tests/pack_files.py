"""Makes picture packs of the real format, for tests."""

import io
import json

import numpy as np


def write_pack(path, pictures, **arrays):
    """A pack of the real format."""
    encoded = []
    for picture in pictures:
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP", lossless=True)
        encoded.append(buffer.getvalue())
    offsets = np.cumsum([0, *map(len, encoded)]).astype(np.int64)
    meta = np.frombuffer(json.dumps(arrays.pop("meta", {})).encode(), np.uint8)
    np.savez(
        path, blob=np.frombuffer(b"".join(encoded), np.uint8), off=offsets, meta=meta, **arrays
    )
