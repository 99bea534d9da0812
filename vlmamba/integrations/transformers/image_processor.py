"""Pictures as the package prepares them, under transformers' interface.

Pillow and numpy alone do the work, so that no machine's torchvision changes what the model sees.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_utils import load_image

from vlmamba.pictures import open_picture
from vlmamba.processing import image_settings, pixel_values


class VLMambaImageProcessor(BaseImageProcessor):
    """Pictures -> pixel_values, by the rules of `vlmamba.processing`."""

    model_input_names: ClassVar[Any] = ["pixel_values"]

    def __init__(
        self,
        size: Mapping[str, int],
        image_mean: Sequence[float],
        image_std: Sequence[float],
        aspect: str,
        resample: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.size = dict(size)
        self.image_mean, self.image_std = list(image_mean), list(image_std)
        self.aspect, self.resample = aspect, resample

    def preprocess(  # type: ignore[override]
        self, images: Any, return_tensors: Any = None, **kwargs: Any
    ) -> BatchFeature:
        """Anything that names pictures -> pixel_values (images, c, h, w), in their order."""
        pixels = pixel_values(
            list(flat(self.fetch_images(images))), image_settings(dict(vars(self)))
        )
        return BatchFeature({"pixel_values": pixels}, tensor_type=return_tensors)

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        """Opens pictures as the package opens them; what only transformers knows (URLs, data URIs) it loads."""
        source = image_url_or_urls
        if isinstance(source, (list, tuple)):
            return [self.fetch_images(one) for one in source]
        if isinstance(source, str) and source.startswith(("http://", "https://", "data:")):
            source = load_image(source)
        if isinstance(source, torch.Tensor):
            source = source.numpy(force=True)
        if isinstance(source, np.ndarray) and source.ndim == 3 and source.shape[0] in (1, 3):
            source = source.transpose(1, 2, 0)  # (h, w, c)
        return open_picture(source)


def flat(pictures: Any) -> Iterator[Image.Image]:
    """Opened pictures in any nesting, one after the other."""
    if isinstance(pictures, (list, tuple)):
        for nested in pictures:
            yield from flat(nested)
    elif pictures is not None:
        yield pictures
