"""Published parts -> a model directory, one tensor at a time: nothing is held twice, nothing is left half-written."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from vlmamba.config import ConnectorConfig, MambaConfig, ModelConfig, VisionConfig
from vlmamba.connector import build_connector
from vlmamba.exchange.comparison import compare_language, compare_tower
from vlmamba.exchange.configs import (
    connector_config,
    language_config,
    picture_settings,
    vision_config,
)
from vlmamba.exchange.layouts import CONNECTOR, HEAD, LANGUAGE, TOWER, VLMAMBA
from vlmamba.exchange.plan import Plan
from vlmamba.exchange.report import Report
from vlmamba.exchange.sources import Checkpoint, open_checkpoint
from vlmamba.exchange.standalone import language_name, write_language_settings
from vlmamba.exchange.store import Store
from vlmamba.exchange.tokens import copy_tokenizer, special_tokens, tokenizer_file
from vlmamba.exchange.writing import new_directory, write_json
from vlmamba.mamba import MambaModel
from vlmamba.processing import Processor, read_tokenizer
from vlmamba.vision import VisionTower
from vlmamba.weight_files import MAX_SHARD, CheckpointError

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Parts:
    """What a model is put together from, opened; no connector: one is drawn."""

    language: Checkpoint
    vision: Checkpoint | None
    connector: Checkpoint | None
    text: MambaConfig
    vision_settings: VisionConfig | None
    connector_settings: ConnectorConfig

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """Each once, the language model's first."""
        found = {c.path: c for c in (self.language, self.vision, self.connector) if c is not None}
        return list(found.values())


def import_model(
    source: str,
    output: Path,
    *,
    vision: str | None = None,
    connector: str | None = None,
    tokenizer: str | None = None,
    fresh: ConnectorConfig | None = None,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    check: bool = False,
    max_shard: int = MAX_SHARD,
) -> Report:
    """Writes a model directory out of published parts, or a language model alone in transformers' layout.

    source: a language model, or a whole model whose parts the others replace. vision, connector: checkpoints with
    those parts. fresh: the connector to draw from `seed` where none is given. dtype: stored type, None: each
    tensor's own. check: the language model and the tower compute what transformers computes from the same files.

    Raises FileNotFoundError, FileExistsError or CheckpointError, in one line, and leaves nothing behind.
    """
    parts = open_parts(source, vision, connector, fresh or ConnectorConfig())
    with new_directory(output) as partial:
        plan = make_plan(parts)
        drawn = draw_connector(parts, plan, seed)
        notes = _notes(parts, plan, seed)
        whole = parts.vision_settings is not None
        store = Store(plan, dtype, drawn)
        store.write(partial, (lambda name: name) if whole else language_name, max_shard)
        if whole:
            _write_whole(partial, parts, tokenizer, store.dtype)
        else:
            write_language_settings(partial, parts.text, store.dtype)
            copy_tokenizer(tokenizer_file(parts.language, tokenizer), partial)
        checks = []
        if check:
            checks.append(compare_language(parts.language, parts.text, partial, dtype))
        if check and parts.vision is not None and parts.vision_settings is not None:
            checks.append(compare_tower(parts.vision, parts.vision_settings, partial, dtype))
        report = Report(_title(output, whole), plan, notes, checks)
        write_json(partial / "import.json", report.as_json())
    return report


def open_parts(
    source: str, vision: str | None, connector: str | None, fresh: ConnectorConfig
) -> Parts:
    """Raises CheckpointError when a part is not where it was said to be."""
    base = open_checkpoint(source)
    text = language_config(base)
    if text is None:
        raise CheckpointError(
            f"{source} holds no language model ({base.layout.name}): name one first, "
            "and this one with --vision or --connector"
        )
    tower = base if vision is None else open_checkpoint(vision)
    settings = vision_config(tower)
    if vision is not None and settings is None:
        raise CheckpointError(f"{vision} holds no vision tower ({tower.layout.name})")
    if settings is None and connector is not None:
        raise CheckpointError("a connector needs a vision tower: name one with --vision")
    bridge = base if connector is None else open_checkpoint(connector)
    kind = None if settings is None else connector_config(bridge, fresh)
    if connector is not None and kind is None:
        raise CheckpointError(f"{connector} holds no connector ({bridge.layout.name})")
    return Parts(
        base,
        None if settings is None else tower,
        None if kind is None else bridge,
        text,
        settings,
        kind or fresh,
    )


def make_plan(parts: Parts) -> Plan:
    """Which tensor comes from where; shapes are those of modules on the meta device."""
    plan = Plan()
    wanted: dict[Path, Shapes] = {c.path: {} for c in parts.checkpoints}
    with torch.device("meta"):
        wanted[parts.language.path] |= language_shapes(parts.text)
        if parts.vision is not None and parts.vision_settings is not None:
            wanted[parts.vision.path] |= tower_shapes(parts.vision_settings)
            shapes = _shapes(CONNECTOR, _connector(parts))
            if parts.connector is None:
                plan.draw(shapes)
            else:
                wanted[parts.connector.path] |= shapes
    for checkpoint in parts.checkpoints:
        plan.take(checkpoint, wanted[checkpoint.path], parts.text.tie_embeddings)
    return plan


def language_shapes(text: MambaConfig) -> Shapes:
    """The tensors of a language model, its head only where it is not the table of embeddings."""
    with torch.device("meta"):
        shapes = _shapes(LANGUAGE, MambaModel(text))
    return shapes if text.tie_embeddings else shapes | {HEAD: (text.vocab_size, text.d_model)}


def tower_shapes(vision: VisionConfig) -> Shapes:
    """The tensors of a vision tower up to its feature layer."""
    with torch.device("meta"):
        return _shapes(TOWER, VisionTower(vision))


def draw_connector(parts: Parts, plan: Plan, seed: int) -> dict[str, Tensor]:
    """The connector's tensors where no checkpoint gives them, a function of the seed alone."""
    if not any(p.fate == "drawn" for p in plan.placed.values()):
        return {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return {CONNECTOR + n: t for n, t in _connector(parts).state_dict().items()}


def _connector(parts: Parts) -> nn.Module:
    assert parts.vision_settings is not None
    return build_connector(
        parts.vision_settings.hidden_size, parts.text.d_model, parts.connector_settings
    )


def _shapes(prefix: str, module: nn.Module) -> Shapes:
    return {prefix + name: tuple(t.shape) for name, t in module.state_dict().items()}


def _write_whole(directory: Path, parts: Parts, tokenizer: str | None, dtype: torch.dtype) -> None:
    processor = _processor(parts, tokenizer)
    assert parts.vision_settings is not None
    config = ModelConfig(
        parts.vision_settings,
        parts.connector_settings,
        parts.text,
        processor.image_token_id,
        processor.eos_token_id,
        processor.pad_token_id,
    )
    processor.save(directory)
    tokens = {"eos_token_id": processor.eos_token_id, "pad_token_id": processor.pad_token_id}
    write_json(directory / "generation_config.json", tokens)
    stored = {"dtype": str(dtype).removeprefix("torch.")}
    write_json(directory / "config.json", config.to_dict() | stored)


def _processor(parts: Parts, tokenizer: str | None) -> Processor:
    """A whole model's own, with the pictures of the tower that is taken; else made for the parts."""
    vision = parts.vision_settings
    assert parts.vision is not None
    assert vision is not None
    image = picture_settings(parts.vision, vision)
    if parts.language.layout is VLMAMBA and tokenizer is None:
        processor = Processor.load(parts.language.directory)
        if parts.vision is not parts.language:
            processor.image, processor.num_patches = image, vision.num_patches
        return processor
    tokens = read_tokenizer(tokenizer_file(parts.language, tokenizer))
    return Processor(tokens, image, vision.num_patches, None, **special_tokens(tokens, parts.text))


def _notes(parts: Parts, plan: Plan, seed: int) -> list[str]:
    notes = []
    if parts.vision_settings is None:
        notes.append("a language model alone, which transformers loads; --vision makes it whole")
    elif parts.connector is None:
        kind = parts.connector_settings
        notes.append(
            f"the connector ({kind.kind}, {kind.scan}) is random, drawn from seed {seed}: train it first"
        )
    kinds = {p.dtype for p in plan.placed.values() if p.fate != "drawn"}
    if len(kinds) > 1:
        listed = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
        notes.append(f"the parts were stored in several types ({listed}); --dtype makes them one")
    return notes


def _title(output: Path, whole: bool) -> str:
    return f"{output}: {'a whole model' if whole else 'a language model alone'}"
