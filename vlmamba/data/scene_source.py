"""Composed scenes as a source of a mixture, with what lies where in them."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vlmamba.data.augment import LAYOUT
from vlmamba.data.dialogues import Dialogue
from vlmamba.data.made import made
from vlmamba.data.mixed_scenes import MixedScenes
from vlmamba.data.mixture import Source


def scenes_source(scenes: MixedScenes, count: int, share: float) -> Source:
    """`count` composed scenes, with what lies where in them."""
    pixels, patches, told = zip(*made(_SceneDrawing(scenes), count), strict=True)
    policy = replace(LAYOUT, colour=0.3)
    return Source(
        "scenes", np.stack(pixels), np.arange(count), told, policy, share, patches=np.stack(patches)
    )


@dataclass(frozen=True)
class _SceneDrawing:
    """The pixels of a scene, what its patches show, and its dialogue; a class, because processes need names."""

    scenes: MixedScenes

    def __call__(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.int64], Dialogue]:
        scene, told = self.scenes.draw(index)
        return np.asarray(scene.picture), scene.patches, told
