"""Published layouts: which tensor of a checkpoint is which tensor of a VL-Mamba, and what is left over.

A rule is a pattern for the beginning of a published name, and what stands there in a VL-Mamba; the first that
matches decides.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

TOWER, CONNECTOR, LANGUAGE = "model.vision_tower.", "model.connector.", "model.language_model."
HEAD = "lm_head.weight"


@dataclass(frozen=True)
class Layout:
    """name: for people. rules: see above. leftovers: patterns of tensors that have no place here, and why.

    check: whether transformers loads the same files, so that the outputs can be compared.
    """

    name: str
    rules: tuple[tuple[str, str], ...]
    leftovers: tuple[tuple[str, str], ...] = ()
    check: bool = False

    def place(self, published: str) -> str | None:
        """The name of a published tensor in a VL-Mamba, None where it has none."""
        for pattern, ours in self.rules:
            if match := re.match(pattern, published):
                return match.expand(ours) + published[match.end() :]
        return None

    def why_unused(self, published: str) -> str:
        for pattern, reason in self.leftovers:
            if re.match(pattern, published):
                return reason
        place = self.place(published)
        if place is not None and place.startswith(TOWER):
            return "above the feature layer, which no patch feature passes"
        return "unknown: nothing here has such a tensor"


_LANGUAGE_RULES = (
    (r"backbone\.embedding\.", f"{LANGUAGE}embeddings."),
    (r"backbone\.", LANGUAGE),
    (r"lm_head\.", "lm_head."),
)
STATE_SPACES = Layout("Mamba of state-spaces", _LANGUAGE_RULES, check=True)
TRANSFORMERS_MAMBA = Layout("Mamba of transformers", _LANGUAGE_RULES, check=True)
TOWERS = Layout(
    "CLIP or SigLIP",
    (
        (r"vision_model\.", TOWER),
        (r"(?=(embeddings|pre_layrnorm|encoder|post_layernorm|head)\.)", TOWER),
    ),
    (
        (r"text_model\.", "the text tower"),
        (r"(logit_scale|logit_bias|visual_projection\.|text_projection\.)", "compares pictures with texts"),
        (r".*\.position_ids$", "a table that is computed"),
    ),
    check=True,
)  # fmt: skip
LLAVA_CONNECTOR = Layout(
    "connector of LLaVA",
    (
        (r"(?:\w+\.)*mm_projector\.0\.", f"{CONNECTOR}mlp.linear_1."),
        (r"(?:\w+\.)*mm_projector\.2\.", f"{CONNECTOR}mlp.linear_2."),
        (r"(?:model\.)?multi_modal_projector\.", f"{CONNECTOR}mlp."),
    ),
    ((r".*", "not of the connector"),),
)
_COBRA_LANGUAGE = tuple(
    (rf"(?:model\.)?llm_backbone\.llm\.{p}", ours) for p, ours in _LANGUAGE_RULES
)
_COBRA_LEFTOVERS = (
    (r"(?:model\.)?projector\.", "Cobra's fused projector: no connector here reads DINOv2 beside SigLIP"),
    (r"(?:model\.)?vision_backbone\.", "Cobra's towers, in timm's layout: take SigLIP from its own checkpoint"),
)  # fmt: skip
COBRA_FUSED = Layout("Cobra", _COBRA_LANGUAGE, _COBRA_LEFTOVERS)
COBRA_MLP = Layout(
    "Cobra with one tower",
    (
        *_COBRA_LANGUAGE,
        (r"(?:model\.)?projector\.projector\.0\.", f"{CONNECTOR}mlp.linear_1."),
        (r"(?:model\.)?projector\.projector\.2\.", f"{CONNECTOR}mlp.linear_2."),
    ),
    _COBRA_LEFTOVERS[1:],
)
VLMAMBA = Layout("vlmamba", ((r"(?=(model|lm_head)\.)", ""),))

_KNOWN = "Mamba of state-spaces or transformers, CLIP, SigLIP, a connector of LLaVA, Cobra, or a vlmamba directory"


def recognise(names: Iterable[str], settings: Mapping[str, Any]) -> Layout:
    """The layout of a checkpoint, by its config.json (empty where there is none) and its tensors.

    Raises ValueError when it is none of ours.
    """
    names = list(names)
    kind = settings.get("model_type")
    if names and all("mm_projector." in name for name in names):
        return _llava(names)  # whatever model's config.json lies beside the file
    if kind == "vlmamba":
        return VLMAMBA
    if kind == "mamba":
        return TRANSFORMERS_MAMBA
    if kind in ("clip", "siglip", "clip_vision_model", "siglip_vision_model"):
        return TOWERS
    if any(re.match(r"(?:model\.)?llm_backbone\.", name) for name in names):
        return _cobra(names)
    if {"d_model", "n_layer"} <= settings.keys():
        return STATE_SPACES
    if any("mm_projector." in name or "multi_modal_projector." in name for name in names):
        return _llava(names)
    if kind is None and any(name.startswith(CONNECTOR) for name in names):
        return VLMAMBA
    if kind is None and any(name.startswith("vision_model.") for name in names):
        return TOWERS
    if kind is None and any(name.startswith("backbone.layers.0.mixer.A_log") for name in names):
        return STATE_SPACES
    what = f"model_type {kind!r}" if kind else f"tensors such as {', '.join(names[:2]) or 'none'}"
    raise ValueError(f"a checkpoint with {what} is none that can be read here: {_KNOWN}")


def _cobra(names: list[str]) -> Layout:
    projector = [name for name in names if re.match(r"(?:model\.)?projector\.projector\.", name)]
    two_layers = {name.split("projector.")[-1].split(".")[0] for name in projector} == {"0", "2"}
    return COBRA_MLP if two_layers else COBRA_FUSED


def _llava(names: list[str]) -> Layout:
    """Raises ValueError for a connector that is no MLP of two layers."""
    found = sorted(name for name in names if "mm_projector." in name)
    other = [name for name in found if LLAVA_CONNECTOR.place(name) is None]
    if other:
        raise ValueError(
            f"its connector has {other[0]}: only LLaVA's mlp2x_gelu, an MLP of two layers, exists here"
        )
    return LLAVA_CONNECTOR
