"""How large the ablations are: the mini, or something that a CPU trains in a minute."""

from dataclasses import dataclass, replace
from difflib import get_close_matches

from vlmamba.ablation.rows import SIZES, Variant
from vlmamba.config import ModelConfig, VisionConfig, VisionLayout
from vlmamba.data.mini import MiniPictures, MiniTexts
from vlmamba.processing import ImageSettings
from vlmamba.recipes import MiniParts, Recipe, Stage
from vlmamba.recipes import mini as the_mini
from vlmamba.train.answering import answering
from vlmamba.train.stages import StageConfig
from vlmamba.train.tower import tower_alone


@dataclass(frozen=True)
class Scale:
    """The recipe of the parts and of every run, with the final model; `layers` of a small, middle and large language
    model."""

    recipe: Recipe
    layers: tuple[int, int, int]

    def model(self, variant: Variant) -> ModelConfig:
        """The configuration of a variant."""
        model = self.recipe.model
        layers = self.layers[SIZES.index(variant.size)]
        return replace(
            model,
            vision=self.vision(variant.layout),
            connector=variant.connector,
            text=replace(model.text, n_layer=layers),
        )

    def vision(self, layout: VisionLayout) -> VisionConfig:
        """The tower in either layout, equal in width, depth, heads and patches."""
        vision = self.recipe.model.vision
        if layout == vision.layout:
            return vision
        # What the published CLIP towers have beside their class token and the norm before the first layer.
        return replace(vision, layout=layout, hidden_act="quick_gelu", layer_norm_eps=1e-5)

    def stage(self, name: str) -> Stage:
        return next(stage for stage in self.recipe.stages if stage.config.name == name)


def mini() -> Scale:
    """The mini's parts, data and stages, in so few steps that an H100 trains every row three times in nine minutes.

    The towers learn from labels and questions alone: both layouts equally, and without the minutes of a teacher.
    """
    base = the_mini()
    pictures = MiniPictures(drawn=15_000, scenes=30_000, boxes=15_000, words=60_000)
    texts = MiniTexts(drawn=15_000, scenes=30_000, boxes=15_000, words=60_000, count=80_000)
    gentle = replace(pictures, gentle=True)
    tower = StageConfig(
        "pretrain", lr=2e-3, batch_size=1024, steps=700, max_length=112, weight_decay=0.05, betas=(0.9, 0.98),
        average=0.998, max_skipped=20, workers=0, log_interval=100, checkpoint_interval=1_000_000,
    )  # fmt: skip
    language = replace(tower, name="language", steps=300, max_length=48, average=0.0)
    align = replace(tower, name="align", batch_size=512, steps=60, weight_decay=0.0, average=0.0)
    finetune = replace(tower, name="finetune", lr=1.5e-3, batch_size=512, steps=350, average=0.0)
    recipe = replace(
        base,
        stages=(
            Stage(tower, pictures, trainee=tower_alone),
            Stage(language, texts),
            Stage(align, gentle, trainee=answering),
            Stage(finetune, gentle, trainee=answering),
        ),
        parts=MiniParts((), pictures),
    )
    return Scale(recipe, (2, 4, 7))


def tiny() -> Scale:
    """Drawn pictures of 64 x 64 and nothing else: no file, no download, seconds a run on a CPU."""
    base = mini().recipe
    vision = VisionConfig(
        "siglip", hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        image_size=64, patch_size=16, layer_norm_eps=1e-6, hidden_act="gelu_pytorch_tanh", feature_layer=-1,
    )  # fmt: skip
    pictures = MiniPictures(packs=None, size=64, drawn=2000, scenes=0, boxes=1000, words=0)
    texts = MiniTexts(packs=None, size=64, drawn=2000, scenes=0, boxes=1000, words=0, count=3000)
    few = {"batch_size": 32, "precision": "float32", "log_interval": 50}
    lengths = {"language": 48}
    stages = tuple(
        replace(
            stage,
            config=replace(stage.config, **few, steps=100, max_length=lengths.get(stage.config.name, 64)),
            data=texts if stage.config.name == "language" else pictures,
        )
        for stage in base.stages
    )  # fmt: skip
    recipe = replace(
        base,
        name="tiny",
        model=replace(
            base.model,
            vision=vision,
            text=replace(base.model.text, d_model=64, n_layer=2, vocab_size=512),
        ),
        image=ImageSettings.for_tower(vision),
        parts=MiniParts((), pictures),
        stages=stages,
    )
    return Scale(recipe, (1, 2, 3))


SCALES = {"mini": mini, "tiny": tiny}


def find_scale(name: str) -> Scale:
    """The scale of that name; raises ValueError with the nearest one."""
    if name not in SCALES:
        near = get_close_matches(name, SCALES, 1)
        hint = f"did you mean {near[0]}?" if near else f"use {' or '.join(SCALES)}"
        raise ValueError(f"there is no recipe {name!r} for ablations: {hint}")
    return SCALES[name]()
