"""The check of an import: what was written computes what transformers computes from the published files."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlmamba.config import MambaConfig, VisionConfig, text_to_dict
from vlmamba.exchange.layouts import LANGUAGE, STATE_SPACES, TOWER
from vlmamba.exchange.sources import Checkpoint
from vlmamba.mamba import MambaLM
from vlmamba.vision import VisionTower
from vlmamba.weight_files import CheckpointError, open_weights

_LENGTH = 32
# Relative to the largest output: rounding in float32, and what a narrower stored type may cost.
_EXACT, _NARROWED = 1e-3, 5e-2


def compare_language(
    checkpoint: Checkpoint, config: MambaConfig, written: Path, dtype: torch.dtype | None
) -> dict[str, Any]:
    """Logits of random tokens, ours from `written` against transformers' from the checkpoint, in float32.

    Raises CheckpointError when they differ.
    """
    if not (checkpoint.layout.check and checkpoint.path.is_dir()):
        return _not_made("language model", checkpoint)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(config.vocab_size, (1, _LENGTH), generator=generator)
    weights = open_weights(written)
    ours = {
        n.replace(LANGUAGE, "backbone."): t
        for n, t in weights.items()
        if n.startswith((LANGUAGE, "backbone.", "lm_head."))
    }
    if config.tie_embeddings:
        ours["lm_head.weight"] = ours["backbone.embeddings.weight"]
    got = _output(MambaLM, config, ours, ids)
    with _transformers() as library:
        options: dict[str, Any] = {}
        if checkpoint.layout is STATE_SPACES:
            settings = {k: v for k, v in text_to_dict(config).items() if k != "model_type"}
            options["config"] = library.MambaConfig(**settings)
            options["key_mapping"] = {r"^backbone\.embedding\.": "backbone.embeddings."}
        theirs = _loaded(library.MambaForCausalLM, checkpoint, options)
        with torch.no_grad():
            expected = theirs(ids).logits
    return _verdict("language model", got, expected, _narrowed(checkpoint, dtype))


def compare_tower(
    checkpoint: Checkpoint, config: VisionConfig, written: Path, dtype: torch.dtype | None
) -> dict[str, Any]:
    """Patch features of a random picture; as `compare_language`."""
    if not (checkpoint.layout.check and checkpoint.path.is_dir()):
        return _not_made("vision tower", checkpoint)
    size = config.image_size
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(1, config.num_channels, size, size, generator=generator)
    weights = open_weights(written)
    ours = {n.removeprefix(TOWER): t for n, t in weights.items() if n.startswith(TOWER)}
    got = _output(VisionTower, config, ours, pixels)
    with _transformers() as library:
        name = "CLIPVisionModel" if config.layout == "clip" else "SiglipVisionModel"
        theirs = _loaded(getattr(library, name), checkpoint, {})
        with torch.no_grad():
            hidden = theirs(pixels, output_hidden_states=True).hidden_states
    expected = hidden[config.feature_layer][:, -config.num_patches :]
    return _verdict("vision tower", got, expected, _narrowed(checkpoint, dtype))


def _output(
    kind: type[nn.Module], config: Any, tensors: dict[str, Tensor], inputs: Tensor
) -> Tensor:
    """What our module computes; it is gone before transformers' is loaded."""
    with torch.device("meta"):
        model = kind(config)
    model.load_state_dict({n: t.float() for n, t in tensors.items()}, assign=True)
    with torch.no_grad():
        return model.eval()(inputs)


def _loaded(kind: Any, checkpoint: Checkpoint, options: dict[str, Any]) -> Any:
    model, info = kind.from_pretrained(
        checkpoint.path, dtype=torch.float32, output_loading_info=True, **options
    )
    if info["missing_keys"]:
        raise CheckpointError(
            f"{checkpoint.label}: transformers misses {sorted(info['missing_keys'])[0]} in it"
        )
    return model.eval()


@contextmanager
def _transformers() -> Iterator[Any]:
    """The library, silent about tensors that it does not use: the report names them."""
    try:
        import transformers
    except ImportError:
        raise CheckpointError(
            "--check compares with transformers: pip install 'vlmamba[transformers]'"
        ) from None
    log = transformers.utils.logging
    before = log.get_verbosity()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield transformers
    finally:
        log.set_verbosity(before)
        log.enable_progress_bar()


def _narrowed(checkpoint: Checkpoint, dtype: torch.dtype | None) -> bool:
    return dtype is not None and any(
        t.is_floating_point() and torch.promote_types(t.dtype, dtype) != dtype
        for t in checkpoint.weights.values()
    )


def _verdict(part: str, got: Tensor, expected: Tensor, narrowed: bool) -> dict[str, Any]:
    difference = float((got - expected).abs().max())
    largest = float(expected.abs().max())
    allowed = (_NARROWED if narrowed else _EXACT) * largest
    verdict = f"largest difference {difference:.2g} of outputs up to {largest:.3g}"
    if not difference <= allowed:
        raise CheckpointError(f"the {part} differs from transformers': {verdict}; nothing is kept")
    return {
        "part": part,
        "verdict": f"equal, {verdict}",
        "difference": difference,
        "largest": largest,
    }


def _not_made(part: str, checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "part": part,
        "verdict": f"not made, transformers cannot load {checkpoint.label} ({checkpoint.layout.name})",
        "difference": None,
        "largest": None,
    }
