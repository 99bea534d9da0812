"""What a stage needs of a GPU's memory, from the shapes alone; `docs/training.md` states the formula in words.

The largest moment of a step is one of two: the end of the forward pass, when every activation that the backward pass
wants is there and the loss is computed, or the beginning of the backward pass, when the last block computes its own
once more. Gradients are counted whole in both, as they are from a step's second batch on. Not counted: the CUDA context
and what the allocator holds back, a gigabyte or two together.
"""

from dataclasses import dataclass, fields

import torch

from vlmamba.config import MambaConfig, ModelConfig
from vlmamba.mamba import Recompute
from vlmamba.model import VLMamba
from vlmamba.ops import cuda_runtime
from vlmamba.ops.scan_plans import BACKWARD
from vlmamba.scan2d import NUM_DIRECTIONS
from vlmamba.train import adapters
from vlmamba.train.costs import matrices
from vlmamba.train.optimizer import MOMENT_BYTES
from vlmamba.train.stages import StageConfig, freeze_for

LOGITS = 2**29  # bytes of logits that exist at a time (ops/loss.py)
NF4_BYTES = 0.516  # of a number: four bits, and a constant in a byte for 64 of them


@dataclass(frozen=True)
class Memory:
    """Bytes of one GPU."""

    weights: float  # float32 masters and frozen weights, which adapters let be bf16
    gradients: float
    optimizer: float
    copies: float  # weights in the precision of the arithmetic, or gathered from other processes
    activations: float
    working: float  # the loss, or one block's second computation: whichever is more

    @property
    def total(self) -> float:
        return sum(getattr(self, field.name) for field in fields(self))


def memory(
    config: ModelConfig,
    stage: StageConfig,
    positions: int,
    pictures: int,
    supervised: int,
    world: int = 1,
) -> Memory:
    """The need of a process among `world`, for batches of that many positions, pictures and supervised tokens."""
    with torch.device("meta"):
        model = VLMamba(config)
        if stage.lora.rank:
            adapters.add(model, stage.lora, stage.seed, stage.precision == "bf16")
    trained = sum(p.numel() for p in freeze_for(model, stage.name).values())
    every = sum(p.numel() * p.element_size() for p in model.parameters())
    tower = 4 * sum(p.numel() for p in model.model.vision_tower.parameters())
    blocks = matrices(model.model.language_model.layers)
    item = 2 if stage.precision == "bf16" else 4
    learns = any(p.requires_grad for p in model.model.language_model.parameters())
    shards = world if stage.parallel != "ddp" else 1
    whole = tower if not stage.shard_tower and stage.name != "pretrain" else 0
    if stage.lora.rank and stage.lora.frozen == "nf4":
        mixers = [block.get_submodule("mixer") for block in model.model.language_model.layers]
        narrowed = sum(
            mixer.get_submodule(name).get_parameter("base_layer.weight").numel()
            for mixer in mixers for name in adapters.QUANTISED
        )  # fmt: skip
        every -= narrowed * (item - NF4_BYTES)
    if stage.lora.rank:
        # Frozen matrices are narrow already.
        adapted = item * trained if item == 2 else 0
        copies = (adapted, adapted / config.text.n_layer if stage.recompute == "mixer" else adapted)
    else:
        copies = _copies(model, stage, item, learns, blocks, shards)
    per_position = activation_bytes(config.text, stage.recompute, learns, item)
    patches = pictures * config.vision.num_patches
    activations = positions * (
        config.text.n_layer * per_position + 2 * 4 * config.text.d_model
    ) + patches * _connector_bytes(config, item)
    v, d = config.text.vocab_size, config.text.d_model
    loss = min(LOGITS, supervised * v * item) + 3 * item * supervised * d
    head = model.lm_head.weight
    loss += item * v * d if item < head.element_size() else 0
    loss += 4 * v * d if head.requires_grad else 0
    once_more = activation_bytes(config.text, "nothing", learns, item) - per_position
    block = positions * (once_more + item * (6 * config.text.d_inner + 2 * d) + 2 * 4 * d)
    if (
        stage.lora.dropout and stage.lora.rank
    ):  # each adapter's own input, and which of it was dropped
        block += positions * (item + 1) * (d + 2 * config.text.d_inner)
    kept, working = max(zip(copies, (loss, block), strict=True), key=sum)
    return Memory(
        weights=(every - whole) / shards + whole,
        gradients=4 * trained / shards,
        optimizer=MOMENT_BYTES[stage.optimizer] * trained / shards,
        copies=kept,
        activations=activations,
        working=working,
    )


def activation_bytes(text: MambaConfig, recompute: Recompute, learns: bool, item: int) -> float:
    """What a block keeps of a position for its backward pass, if it `learns` or only passes a gradient on."""
    d, e, n = text.d_model, text.d_inner, text.d_state
    normed = item * d  # in_proj's input, from which the norm finds its own gradient too
    if recompute == "mixer":
        return normed
    projected = normed + item * 2 * e
    projected += item * e if learns else 0  # out_proj's input
    if recompute == "scan":
        return projected
    rank = text.dt_rank or -(-d // 16)
    return projected + item * (2 * e + rank + 2 * n) + 4 * e * n / between_states()


def between_states() -> int:
    """Positions between two states that the scan keeps on the GPU at hand; without one, on an H100."""
    if torch.cuda.is_available() and cuda_runtime.unavailable(torch.cuda.current_device()):
        from vlmamba.ops import scan  # imports Triton

        return scan.CHUNK
    return BACKWARD[0].tile


def _copies(
    model: VLMamba, stage: StageConfig, item: int, learns: bool, blocks: int, shards: int
) -> tuple[float, float]:
    """Weights beside the masters, autocast's or those that are gathered: after the forward pass, and then.

    Autocast keeps its copies of what is trained until the forward pass is over; the products that are not
    computed again keep theirs for longer, to pass the gradient on.
    """
    text = model.config.text
    if shards > 1:
        # A block's while it computes, the next one's on the way; the root's in float32 all the time.
        gathered = blocks if stage.parallel == "fsdp-grad-op" else 3 * blocks / text.n_layer
        tower = sum(p.numel() for p in model.model.vision_tower.parameters())
        inside = tower + sum(p.numel() for p in model.model.language_model.layers.parameters())
        root = sum(p.numel() for p in model.parameters()) - inside
        return item * gathered + 4 * root, item * gathered + 4 * root
    if item == 4:
        return 0, 0
    outer = 3 * text.d_model * text.d_inner * text.n_layer  # in_proj's and out_proj's
    saved = {"nothing": blocks, "scan": outer, "mixer": blocks / text.n_layer}[stage.recompute]
    return item * (blocks if learns else saved), item * saved


def _connector_bytes(config: ModelConfig, item: int) -> float:
    """What the connector keeps of a patch."""
    d_in, d = config.vision.hidden_size, config.text.d_model
    kind = config.connector.kind
    if "vss" not in kind:
        return item * (d_in + 2 * d)
    width = d if kind == "vss-l2" else d_in
    e = config.connector.expand * width
    directions = NUM_DIRECTIONS[config.connector.scan]
    states = 4 * e * config.connector.d_state / between_states()
    # In every direction the convolution's input and output, dt and the states; once both projections and the gate.
    return directions * (item * 3 * e + states) + item * (5 * e + d_in + 5 * width)
