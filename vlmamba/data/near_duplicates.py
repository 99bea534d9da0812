"""Training pictures that all but equal a validation picture, and are left out.

`near_duplicates.json` names them by pack and number, for the packs of the sizes that it states. Found by comparing
every training picture with every validation picture: a difference hash of 64 bits (each of 8 x 8 cells brighter than
its left neighbour or not) that differs in at most 8, and colours of 12 x 12 cells that differ by 8 (by 5, past 4 bits)
of 255 at most, as a root mean square.
"""

import json
import logging
from importlib.resources import files

import numpy as np

from vlmamba.data.packs import Pack

log = logging.getLogger("vlmamba")


def without_near_duplicates(pack: Pack) -> Pack:
    """The pack without the pictures listed for a pack of this name and size."""
    listed = json.loads((files("vlmamba.data") / "near_duplicates.json").read_text()).get(pack.name)
    if listed is None or listed["size"] != len(pack) or not listed["left_out"]:
        return pack
    kept = np.setdiff1d(np.arange(len(pack)), listed["left_out"])
    log.info(
        "%s: %d near-duplicates of validation pictures left out", pack.name, len(pack) - len(kept)
    )
    encoded = [pack.encoded(int(k)) for k in kept]
    offsets = np.cumsum([0, *map(len, encoded)]).astype(np.int64)
    arrays = {name: values[kept] for name, values in pack.arrays.items()}
    return Pack(pack.name, b"".join(encoded), offsets, arrays, pack.meta)
