"""The mini model from nothing: tokenizer, tower and language model first, then the paper's two stages.

The paper starts from public parts; no public tower or Mamba is small enough to ship inside a package. So the
tower learns from labelled pictures and questions about them (`train/tower.py`), the language model from the
same conversations without their pictures; only then come align and finetune, exactly as for the large model.
"""

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from vlmamba.checkpoints import save_model
from vlmamba.config import ConnectorConfig, MambaConfig, ModelConfig, VisionConfig
from vlmamba.data.augment import GENTLE_PHOTO, PHOTO
from vlmamba.data.mini import mini_sources
from vlmamba.data.mixture import Mixture, MixtureBatch, Source, Texts
from vlmamba.model import VLMamba
from vlmamba.processing import ImageSettings, Processor
from vlmamba.train.loop import run_stage
from vlmamba.train.stages import StageConfig
from vlmamba.train.tokenizer import train_tokenizer
from vlmamba.train.tower import TowerPretraining, num_classes

log = logging.getLogger("vlmamba")


@dataclass(frozen=True)
class MiniRecipe:
    """The mini's architecture and its four stages."""

    model: ModelConfig
    tower: StageConfig
    language: StageConfig
    align: StageConfig
    finetune: StageConfig
    drawn: int = 60_000  # pictures that the package draws
    words: int = 60_000  # rendered words
    seed: int = 0


def mini_recipe() -> MiniRecipe:
    """SigLIP-layout ViT of nine layers at 128 px, VSS-L2 with BSM, seven Mamba layers."""
    vision = VisionConfig(
        layout="siglip", hidden_size=256, intermediate_size=1024, num_hidden_layers=9, num_attention_heads=4,
        image_size=128, patch_size=16, layer_norm_eps=1e-6, hidden_act="gelu_pytorch_tanh", feature_layer=-1,
    )  # fmt: skip
    text = MambaConfig(d_model=256, n_layer=7, vocab_size=2048)
    betas = (0.9, 0.98)
    return MiniRecipe(
        model=ModelConfig(vision, ConnectorConfig(), text, image_token_id=2),
        tower=StageConfig("pretrain", lr=1.5e-3, batch_size=1024, steps=4000, weight_decay=0.05, betas=betas, workers=0),
        language=StageConfig("language", lr=2e-3, batch_size=512, steps=600, weight_decay=0.05, betas=betas, workers=0),
        align=StageConfig("align", lr=2e-3, batch_size=512, steps=400, betas=betas, workers=0),
        finetune=StageConfig("finetune", lr=1e-3, batch_size=512, steps=2000, weight_decay=0.05, betas=betas, workers=0),
    )  # fmt: skip


def train_mini(
    recipe: MiniRecipe,
    data: Path,
    output: Path,
    *,
    device: str,
    resume: bool = False,
    until: str = "finetune",
) -> Path:
    """Runs the stages up to `until`, each kept in its own folder of `output`; returns the model directory.

    A finished stage is not run again: its weights are read from its folder. `resume` goes on within a stage.
    Raises FileNotFoundError when `data` holds no training packs.
    """
    torch.manual_seed(recipe.seed)
    output.mkdir(parents=True, exist_ok=True)
    sources = mini_sources(
        data, recipe.model.vision.image_size, recipe.drawn, recipe.words, recipe.seed
    )
    processor = mini_processor(
        recipe.model, mini_tokenizer(output, sources, recipe.model.text.vocab_size)
    )
    stages = _Stages(recipe, sources, processor, output, device, resume)
    model = VLMamba(recipe.model).to(device)
    for name in ("tower", "language", "align", "finetune"):
        done = output / name / "weights.safetensors"
        if not done.exists():
            getattr(stages, name)(model)
            _save_half(model.state_dict(), done)
        model.load_state_dict(load_file(done), strict=False)
        if name == until:
            break
    directory = output / "model"
    save_model(directory, model.cpu().eval(), processor, storage_dtype=torch.float16)
    return directory


class _Stages:
    """What the stages share."""

    def __init__(
        self,
        recipe: MiniRecipe,
        sources: Sequence[Source],
        processor: Processor,
        output: Path,
        device: str,
        resume: bool,
    ) -> None:
        self.recipe, self.sources, self.processor = recipe, sources, processor
        self.output, self.device, self.resume = output, device, resume

    def tower(self, model: VLMamba) -> None:
        mixture = self.mixture(self.sources, self.recipe.tower)
        pretraining = TowerPretraining(self.recipe.model, num_classes(mixture)).to(self.device)
        self.run(pretraining, mixture, self.recipe.tower, "tower", tower_loss)
        model.model.vision_tower.load_state_dict(pretraining.tower.state_dict())

    def language(self, model: VLMamba) -> None:
        rng = random.Random(self.recipe.seed)
        told = [dialogue for source in self.sources for dialogue in source.dialogues]
        told = rng.sample(told, min(len(told), 200_000))
        stage = self.recipe.language
        texts = Texts(told, self.processor, stage.batch_size, stage.seed, self.device)
        self.run(model, texts, stage, "language")

    def align(self, model: VLMamba) -> None:
        self.run(model, self.mixture(self.sources, self.recipe.align), self.recipe.align, "align")

    def finetune(self, model: VLMamba) -> None:
        gentle = [replace(s, policy=GENTLE_PHOTO) if s.policy == PHOTO else s for s in self.sources]
        self.run(
            model, self.mixture(gentle, self.recipe.finetune), self.recipe.finetune, "finetune"
        )

    def mixture(self, sources: Sequence[Source], stage: StageConfig) -> Mixture:
        size = self.recipe.model.vision.image_size
        return Mixture(sources, self.processor, stage.batch_size, size, stage.seed, self.device)

    def run(self, model, batches, stage: StageConfig, name: str, objective=None) -> None:  # noqa: ANN001
        directory = self.output / name
        options = {} if objective is None else {"objective": objective}
        run_stage(model, batches, stage, directory, resume=self.resume, **options)


def tower_loss(model: TowerPretraining, batch: MixtureBatch) -> tuple[Tensor, Tensor]:
    """The tower's objective in the form the loop sums: a mean counts as one token."""
    loss = model(batch)
    return loss, torch.ones((), dtype=torch.long, device=loss.device)


def mini_tokenizer(output: Path, sources: Sequence[Source], vocab_size: int) -> Tokenizer:
    """The tokenizer in `output`, trained on the conversations if it is not there yet.

    Words to be read are left out of its text, so that they are spelt in short pieces.
    """
    path = output / "tokenizer.json"
    if not path.exists():
        spoken = [s for s in sources if not (s.name.startswith("iiit5k") or s.name == "words")]
        texts = (f"{q}\n {a}" for s in spoken for dialogue in s.dialogues for q, a in dialogue)
        train_tokenizer(texts, vocab_size).save(str(path))
    return Tokenizer.from_file(str(path))


def mini_processor(config: ModelConfig, tokenizer: Tokenizer) -> Processor:
    """Pictures at the tower's size, mean and deviation one half as SigLIP's."""
    image = ImageSettings(config.vision.image_size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return Processor(
        tokenizer, image, config.vision.num_patches, image_token_id=config.image_token_id
    )


def _save_half(state: dict[str, Tensor], path: Path) -> None:
    """Weights as float16, the head left out where it is the embedding table."""
    kept = {
        name: t.half().cpu().contiguous() for name, t in state.items() if name != "lm_head.weight"
    }
    save_file(kept, path)
