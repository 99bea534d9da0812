"""Training runs, each a function that returns the whole of it; `vlmamba train NAME` runs one."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Protocol

from torch import nn

from vlmamba.config import ConnectorConfig, MambaConfig, ModelConfig, VisionConfig
from vlmamba.data.batches import Batches
from vlmamba.data.drawn import Drawing
from vlmamba.data.drawn_samples import DrawnData
from vlmamba.data.llava import LlavaData
from vlmamba.data.mini import MiniPhotos, MiniPictures, MiniTexts
from vlmamba.model import VLMamba
from vlmamba.parts import FreshParts, Parts, PublicParts
from vlmamba.processing import ImageSettings, Processor
from vlmamba.template import LLAVA_PLAIN, Template
from vlmamba.train.adapters import Lora
from vlmamba.train.answering import answering
from vlmamba.train.loop import Objective
from vlmamba.train.stages import StageConfig
from vlmamba.train.teacher import teacher_tuning
from vlmamba.train.tower import tower_pretraining


class Data(Protocol):
    """Where a stage's samples come from: settings that can make batches for a processor."""

    def batches(
        self, processor: Processor, batch_size: int, max_length: int, seed: int
    ) -> Batches: ...


# (model, batches, settings) -> the module that a stage trains in the model's place, sharing weights with it, and its
# objective.
Trainee = Callable[[VLMamba, Batches, StageConfig], tuple[nn.Module, Objective]]


@dataclass(frozen=True)
class Stage:
    """One stage of a recipe: how it trains, on what, and in which words (None: the recipe's template)."""

    config: StageConfig
    data: Data
    template: Template | None = None
    trainee: Trainee | None = None  # None: the model itself, on next tokens


@dataclass(frozen=True)
class Recipe:
    """A whole training run. The parts say where the weights come from, the stages what becomes of them."""

    name: str
    model: ModelConfig
    image: ImageSettings
    parts: Parts
    stages: tuple[Stage, ...]
    template: Template = Template()  # noqa: RUF009 - frozen
    seed: int = 0


def tiny() -> Recipe:
    """Pictures of 64 x 64 that the package draws itself; about a minute on a CPU, no file and no download.

    Nothing this small has public weights, so a stage comes before the paper's two: "pretrain" trains tower and
    language model together through a connector that is then thrown away. "align" and "finetune" follow as in
    the paper, with the tower frozen and a fresh connector.
    """
    drawing = Drawing(
        size=64,
        scenes=("shape",),
        shapes=("circle", "square", "triangle"),
        colours=("red", "green", "blue", "black"),
        backgrounds=("white",),
    )
    dialogues, captions = DrawnData(drawing, 4096), DrawnData(drawing, 8192, captions=True)
    common = StageConfig(
        "pretrain", lr=3e-3, batch_size=2, steps=600, max_length=256, precision="float32", warmup_ratio=0.05,
        workers=0, log_interval=20, checkpoint_interval=200,
    )  # fmt: skip
    vision = VisionConfig(
        "siglip", hidden_size=96, intermediate_size=192, num_hidden_layers=4, num_attention_heads=3,
        image_size=64, patch_size=16, layer_norm_eps=1e-6, hidden_act="gelu_pytorch_tanh",
    )  # fmt: skip
    text = MambaConfig(d_model=64, n_layer=2, vocab_size=512)
    return Recipe(
        name="tiny",
        model=ModelConfig(vision, ConnectorConfig(), text, image_token_id=2),
        image=ImageSettings.for_tower(vision),
        parts=FreshParts(_Texts(dialogues, captions)),
        stages=(
            Stage(common, captions, LLAVA_PLAIN),
            Stage(replace(common, name="align", steps=80), captions, LLAVA_PLAIN),
            Stage(replace(common, name="finetune", steps=500, lr=2e-3), dialogues),
        ),
    )


@dataclass(frozen=True)
class _Texts:
    """What a tokenizer for drawn pictures has to spell."""

    dialogues: DrawnData
    captions: DrawnData

    def __iter__(self) -> Iterator[str]:
        for index in range(512):
            for data in (self.dialogues, self.captions):
                for question, answer in data.dialogue(index):
                    yield f"User: {question}\nAssistant: {answer}"


def mini() -> Recipe:
    """The embedded model: a SigLIP-layout tower of nine layers at 128 px, VSS-L2 with BSM, seven Mamba layers.

    Its pictures are packs in a directory (`--set packs=DIR`, see docs/training.md) and drawn ones. No public tower
    or Mamba is small enough to ship inside a package, so both are pre-trained first, as the paper's were by others:
    the tower on labelled pictures and questions about them, the language model on the conversations alone.
    """
    vision = VisionConfig(
        "siglip", hidden_size=256, intermediate_size=1024, num_hidden_layers=9, num_attention_heads=4,
        image_size=128, patch_size=16, layer_norm_eps=1e-6, hidden_act="gelu_pytorch_tanh", feature_layer=-1,
    )  # fmt: skip
    text = MambaConfig(d_model=256, n_layer=7, vocab_size=2048)
    pictures, gentle = MiniPictures(), MiniPictures(gentle=True)
    tower = StageConfig(
        "pretrain", lr=2e-3, batch_size=2048, steps=6489, max_length=120, weight_decay=0.05, betas=(0.9, 0.98),
        average=0.999, max_skipped=20, replay=True, workers=0, log_interval=50, checkpoint_interval=1000,
    )  # fmt: skip
    teacher = replace(tower, name="teacher", lr=1e-3, batch_size=1024, steps=397, average=0.0)
    language = replace(  # its loss looks up where the supervised tokens are, which a graph cannot
        tower, name="language", batch_size=1024, steps=594, max_length=56, average=0.0, replay=False
    )
    align = replace(tower, name="align", batch_size=1024, steps=155, weight_decay=0.0, average=0.0)
    finetune = replace(
        tower, name="finetune", lr=1.5e-3, batch_size=1024, steps=5551, average=0.998
    )
    return Recipe(
        name="mini",
        model=ModelConfig(vision, ConnectorConfig(), text, image_token_id=2),
        image=replace(ImageSettings.for_tower(vision), aspect="photo"),
        parts=MiniParts((), pictures),
        stages=(
            Stage(teacher, MiniPhotos(gentle=True), trainee=teacher_tuning),
            Stage(tower, pictures, trainee=tower_pretraining),
            Stage(language, MiniTexts()),
            Stage(align, gentle, trainee=answering),
            Stage(finetune, gentle, trainee=answering),
        ),
    )


@dataclass(frozen=True)
class MiniParts(FreshParts):
    """Random weights, and a tokenizer trained on the mini's conversations."""

    data: MiniPictures = MiniPictures()  # noqa: RUF009 - frozen

    def processor(self, config: ModelConfig, image: ImageSettings, template: Template) -> Processor:
        return FreshParts(self.data.texts()).processor(config, image, template)


# Sizes of the public parts, from their own config.json; the tables need them before anything is downloaded.
SIGLIP_SO400M = VisionConfig(
    "siglip", hidden_size=1152, intermediate_size=4304, num_hidden_layers=27, num_attention_heads=16,
    image_size=384, patch_size=14, layer_norm_eps=1e-6, hidden_act="gelu_pytorch_tanh",
)  # fmt: skip
CLIP_L_336 = VisionConfig(
    "clip", hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16,
    image_size=336, patch_size=14, layer_norm_eps=1e-5, hidden_act="quick_gelu",
)  # fmt: skip
# Paper Sec. 4.4 names "SigLIP-SO" and "CLIP-ViT-L" without a resolution; 384 is what surveys list for VL-Mamba, and
# 336 is the tower of LLaVA-1.5 (scripts/v1_5: --vision_tower), which the paper follows.
SIGLIP_WEIGHTS = "google/siglip-so400m-patch14-384"
CLIP_WEIGHTS = "openai/clip-vit-large-patch14-336"
MAMBA_2_8B = MambaConfig(d_model=2560, n_layer=64)
MAMBA_1_4B = MambaConfig(d_model=2048, n_layer=48)


def vl_mamba_2_8b() -> Recipe:
    """The paper's final model: SigLIP-SO400M, Mamba-2.8B (SlimPajama), VSS-L2, BSM (Sec. 4.4, Tables 4 and 5).

    The paper prints no rate, batch size or schedule; it says "following" LLaVA, with its data and its two stages
    (Sec. 4.1). So the values are LLaVA-1.5's, from scripts/v1_5/pretrain.sh and finetune.sh, each with its source; what
    those leave to transformers' TrainingArguments is marked TA.
    """
    align = StageConfig(
        "align",
        lr=1e-3,  # pretrain.sh: learning_rate
        # pretrain.sh: 32 samples on each of 8 GPUs, 256 a step. A caption with its 729 patches is some 743 tokens, four
        # to a row of 3072: 64 rows hold 256.
        batch_size=8,
        accumulation=8,
        max_length=3072,
        epochs=1,  # both scripts: num_train_epochs
        warmup_ratio=0.03,  # both: warmup_ratio; lr_scheduler_type cosine, to 0
        weight_decay=0.0,  # both: weight_decay
        betas=(0.9, 0.999),  # TA: adam_beta1, adam_beta2
        eps=1e-8,  # TA: adam_epsilon
        clip=1.0,  # TA: max_grad_norm
        precision="bf16",  # both: bf16 True, over float32 masters (DeepSpeed)
        # Both: gradient_checkpointing True. Here, where the language model does not learn, an H100 has room for more:
        # 65 GB, and 14 % faster than recomputing whole mixers (results/train_scale.json).
        recompute="scan",
        seed=42,  # TA: seed
        workers=8,  # 4 a GPU in both scripts; only speed depends on it
    )
    finetune = replace(
        align,
        name="finetune",
        lr=2e-5,  # finetune.sh: learning_rate, for connector and language model alike (no mm_projector_lr)
        # finetune.sh: 16 samples on each of 8 GPUs, 128 a step; 32 rows of 3840 hold 125 and are 98 % full, where those
        # of its model_max_length, 2048, would be 91 % (bench/data_pipeline.py).
        batch_size=4,
        max_length=3840,
        recompute="mixer",  # 60 GB by count
    )
    return Recipe(
        name="vl-mamba-2.8b",
        model=ModelConfig(SIGLIP_SO400M, ConnectorConfig(), MAMBA_2_8B, image_token_id=50277),
        # finetune.sh: image_aspect_ratio pad. pretrain.sh leaves the processor's crop; both stages pad here, so that
        # the connector meets in the second what it was made for in the first.
        image=ImageSettings.for_tower(SIGLIP_SO400M),
        parts=PublicParts(SIGLIP_WEIGHTS, "state-spaces/mamba-2.8b-slimpj"),
        stages=(
            Stage(
                align,
                LlavaData("data/blip_laion_cc_sbu_558k.json", "data/LLaVA-Pretrain/images"),
                LLAVA_PLAIN,  # pretrain.sh: version plain
            ),
            Stage(finetune, LlavaData("data/llava_v1_5_mix665k.json", "data")),
        ),
        seed=42,
    )


def vl_mamba_2_8b_lora() -> Recipe:
    """The same model for one card of 24 GB, by count: adapters, not the language model itself, in small batches."""
    base = vl_mamba_2_8b()
    align, finetune = base.stages
    # The rows of a step, 64 and 32, as few at a time as memory takes.
    small = replace(align.config, batch_size=2, accumulation=32, recompute="mixer")
    adapted = replace(
        finetune.config,
        lr=2e-4,  # finetune_lora.sh: learning_rate
        # finetune_lora.sh: lora_r 128, lora_alpha 256, mm_projector_lr 2e-5; train.py: lora_dropout 0.05
        lora=Lora(rank=128, alpha=256.0, dropout=0.05, connector_rate=0.1),
        batch_size=2,
        accumulation=16,
    )
    return replace(
        base,
        name="vl-mamba-2.8b-lora",
        stages=(
            replace(align, config=small),
            replace(finetune, config=adapted),
        ),
    )


def _variant(
    name: str,
    *,
    language: str = "state-spaces/mamba-2.8b-slimpj",
    text: MambaConfig = MAMBA_2_8B,
    clip: bool = False,
    connector: ConnectorConfig,
) -> Callable[[], Recipe]:
    """A row of the paper's Tables 2 to 5: the final model with some parts exchanged."""

    def recipe() -> Recipe:
        base = vl_mamba_2_8b()
        vision = CLIP_L_336 if clip else SIGLIP_SO400M
        return replace(
            base,
            name=name,
            model=replace(base.model, vision=vision, text=text, connector=connector),
            image=ImageSettings.for_tower(vision),
            parts=PublicParts(CLIP_WEIGHTS if clip else SIGLIP_WEIGHTS, language),
            stages=_with_fewer_patches(base.stages) if clip else base.stages,
        )

    return recipe


def _with_fewer_patches(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """CLIP's 576 patches leave room for more samples in a row; steps of as many samples keep rows comparable."""
    align, finetune = stages
    return (
        replace(align, config=replace(align.config, max_length=2432)),  # four captions to a row still
        replace(finetune, config=replace(finetune.config, max_length=3328)),  # 129 samples in 32 rows, 99 % full
    )  # fmt: skip


_MLP = ConnectorConfig(kind="mlp")
TABLES: dict[str, Callable[[], Recipe]] = {
    "table2-mamba-1.4b": _variant(
        "table2-mamba-1.4b", language="state-spaces/mamba-1.4b", text=MAMBA_1_4B, clip=True, connector=_MLP
    ),
    "table2-mamba-2.8b-pile": _variant(
        "table2-mamba-2.8b-pile", language="state-spaces/mamba-2.8b", clip=True, connector=_MLP
    ),
    "table2-mamba-2.8b-slimpj": _variant("table2-mamba-2.8b-slimpj", clip=True, connector=_MLP),
    "table3-siglip": _variant("table3-siglip", connector=_MLP),
    "table4-vss-mlp": _variant("table4-vss-mlp", connector=ConnectorConfig(kind="vss-mlp")),
    "table5-csm": _variant("table5-csm", connector=ConnectorConfig(scan="csm")),
}  # fmt: skip
# Rows that are another table's row, with the very same figures in the paper: one run serves both.
SAME_ROWS = {
    "table3-clip": "table2-mamba-2.8b-slimpj",
    "table4-mlp": "table3-siglip",
    "table4-vss-l2": "vl-mamba-2.8b",
    "table5-bsm": "vl-mamba-2.8b",
}
RECIPES: dict[str, Callable[[], Recipe]] = {
    "tiny": tiny,
    "mini": mini,
    "vl-mamba-2.8b": vl_mamba_2_8b,
    "vl-mamba-2.8b-lora": vl_mamba_2_8b_lora,
    **TABLES,
}


def find(name: str) -> Recipe:
    """The recipe of that name, or of that row; raises ValueError with the nearest one."""
    name = SAME_ROWS.get(name, name)
    if name not in RECIPES:
        near = get_close_matches(name, [*RECIPES, *SAME_ROWS], 1)
        hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(RECIPES)}"
        raise ValueError(f"there is no recipe {name!r}: {hint}")
    return RECIPES[name]()
