"""VL-Mamba whole (paper Fig. 1): vision tower -> multimodal connector -> Mamba language model."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmamba.config import IGNORE_INDEX, ModelConfig
from vlmamba.connector import build_connector
from vlmamba.mamba import MambaModel
from vlmamba.ops import linear_cross_entropy
from vlmamba.state import State
from vlmamba.upload import upload
from vlmamba.vision import VisionTower


@dataclass
class Output:
    """logits (b, l, v), or of the last `logits_to_keep` positions; loss, a scalar, where labels were given."""

    logits: Tensor | None
    loss: Tensor | None = None


class VLMambaModel(nn.Module):
    """Vision tower, connector and language model, without the head: ids and pictures -> hidden states."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_tower = VisionTower(config.vision)
        self.connector = build_connector(
            config.vision.hidden_size, config.text.d_model, config.connector
        )
        self.language_model = MambaModel(config.text)

    def image_embeds(self, pixel_values: Tensor) -> Tensor:
        """Pictures (images, c, h, w) -> what the language model reads of them (images, p, d)."""
        return self.connector(self.vision_tower(pixel_values), self.config.vision.grid)

    def embed(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        image_embeds: Tensor | None = None,
    ) -> Tensor:
        """Token embeddings (b, l, d) with the pictures' embeddings in place of the image tokens.

        The pictures of a batch stand in `pixel_values` (images, c, h, w), or already embedded in
        `image_embeds` (images, p, d), in the order in which their tokens appear, row by row. input_ids may lie on
        the CPU: then nobody waits for a GPU to count them.
        Raises ValueError when the number of image tokens does not fit the number of pictures.
        """
        at_image = input_ids == self.config.image_token_id  # (b, l)
        pictures = image_embeds if pixel_values is None else pixel_values
        check_image_tokens(
            at_image, 0 if pictures is None else len(pictures), self.config.vision.num_patches
        )
        if pixel_values is not None:
            image_embeds = self.image_embeds(pixel_values)
        table = self.language_model.embeddings
        embeds = table(upload(input_ids, table.weight.device))
        if image_embeds is None:
            return embeds
        places = upload(at_image, embeds.device)[..., None]
        return embeds.masked_scatter(places, image_embeds.to(embeds.dtype))

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        *,
        image_embeds: Tensor | None = None,
        attention_mask: Tensor | None = None,
        state: State | None = None,
        reset: Tensor | None = None,
    ) -> Tensor:
        """Hidden states (b, l, d); arguments as in `embed` and `MambaModel.forward`."""
        embeds = self.embed(input_ids, pixel_values, image_embeds)
        return self.language_model(embeds, state=state, attention_mask=attention_mask, reset=reset)


class VLMamba(nn.Module):
    """The model with its language-model head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = VLMambaModel(config)
        self.lm_head = nn.Linear(config.text.d_model, config.text.vocab_size, bias=False)
        if config.text.tie_embeddings:
            self.lm_head.weight = self.model.language_model.embeddings.weight

    @property
    def device(self) -> torch.device:
        return self.lm_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.lm_head.weight.dtype

    def allocate_state(self, batch_size: int) -> State:
        """An empty state for `batch_size` sequences, where the model is."""
        return State.allocate(self.config.text, batch_size, self.device, self.dtype)

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        *,
        image_embeds: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        state: State | None = None,
        reset: Tensor | None = None,
        logits_to_keep: int = 0,
    ) -> Output:
        """input_ids (b, l) and pictures -> logits; arguments as in `VLMambaModel.forward`.

        With `labels` (b, l), IGNORE_INDEX where nothing is learnt, the result carries the mean loss over
        supervised tokens and no logits. `logits_to_keep`: how many last positions get logits, 0 for all.
        """
        hidden = self.model(
            input_ids, pixel_values, image_embeds=image_embeds,
            attention_mask=attention_mask, state=state, reset=reset,
        )  # fmt: skip
        if labels is not None:
            total, count = self.supervised_loss(hidden, labels)
            return Output(None, total / count.clamp(min=1))
        return Output(self.lm_head(hidden[:, -logits_to_keep:]))

    def supervised_loss(self, hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The summed next-token cross-entropy over supervised tokens, and their number.

        Only supervised positions go through the head: most positions of a picture's prompt are not.
        """
        targets = F.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX).flatten()
        supervised = targets != IGNORE_INDEX
        # Places, as the gradient of a mask is sorted first, for rows that might come twice.
        places = supervised.nonzero().squeeze(1)
        rows, targets = hidden.flatten(0, 1).index_select(0, places), targets[places]
        if type(self.lm_head) is nn.Linear:
            total = linear_cross_entropy(rows, self.lm_head.weight, targets)
        else:  # an adapter, whose logits only it can make
            total = F.cross_entropy(self.lm_head(rows).float(), targets, reduction="sum")
        return total, supervised.sum()


def check_image_tokens(at_image: Tensor, num_images: int, num_patches: int) -> None:
    """Raises ValueError unless every row of `at_image` (b, l) holds whole pictures, `num_images` in all."""
    per_row = at_image.sum(1)
    if int(per_row.sum()) != num_images * num_patches or bool((per_row % num_patches).any()):
        raise ValueError(
            f"the prompt holds {per_row.tolist()} image tokens per row for {num_images} pictures of {num_patches} "
            "tokens each: give as many pictures as the prompt has places for"
        )
