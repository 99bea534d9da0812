"""Pre-training of a vision tower that has no public weights, before the paper's two stages begin.

Five objectives share the tower. Where pictures have a class, a linear head on the mean patch names it, half of these
pictures being blended with another one; the same pictures follow a tuned teacher (`train/teacher.py`), its classes and,
place by place, its features, where its package is installed. Every patch of a made picture says which letter or which
kind of thing it shows, and every patch of three boxes how many shapes of which kind. A letter head spells words, and a
small reader answers questions about a part of the unblended pictures (`train/reader.py`). Heads and reader are thrown
away afterwards.
"""

import math
from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from vlmamba.config import ModelConfig
from vlmamba.data.augment import blend
from vlmamba.data.batches import Batches
from vlmamba.data.census import OUTSIDE, SLOTS, VALUES
from vlmamba.data.mixture import Mixture, MixtureBatch
from vlmamba.data.patch_classes import PATCH_CLASSES, UNKNOWN, patch_weights
from vlmamba.model import VLMamba
from vlmamba.train import teacher as lite0
from vlmamba.train.loop import Objective
from vlmamba.train.reader import LetterHead, Reader
from vlmamba.train.stages import StageConfig
from vlmamba.train.teacher import TeacherTuning, parts, spans
from vlmamba.vision import VisionTower

# Over 64 patches, both ways, twice as fast as the kernel for long sequences.
SHORT_ATTENTION = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
LABEL_SMOOTHING = 0.1
BLENDED = 0.5  # of the pictures with classes
READ = 0.12  # of the pictures with classes; of the others all are read but words, which are spelt
LABELS = 0.3  # weight of the labels beside the teacher
CENSUS = 4.0  # weight of the census, a mean over many slots of which most are empty
ELSEWHERE = 0.25  # weight of what the teacher says in the other sources' classes


class TowerPretraining(nn.Module):
    """The tower with its heads and its reader; the forward pass returns the loss of a batch.

    Without classes (`num_classes` is empty) the tower learns from letters and questions alone.
    """

    def __init__(
        self,
        tower: VisionTower,
        config: ModelConfig,
        num_classes: Mapping[str, int],
        teacher: TeacherTuning | None = None,
    ) -> None:
        super().__init__()
        vision = config.vision
        width, heads = vision.hidden_size, vision.num_attention_heads
        self.tower = tower
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, sum(num_classes.values())) if num_classes else nn.Identity()
        self.spans = spans(num_classes)
        self.reader = Reader(width, config.text.vocab_size, heads)
        self.letters = LetterHead(width, heads)
        self.shown = nn.Linear(width, PATCH_CLASSES)
        self.census = nn.Linear(width, SLOTS * VALUES)
        self.shown_weights: Tensor
        self.register_buffer("shown_weights", torch.tensor(patch_weights()), persistent=False)
        self.num_patches = vision.num_patches
        self.image_token_id = config.image_token_id
        if teacher is not None:
            self.middle_head = nn.Linear(width, lite0.MIDDLE_FEATURES)
            self.features_head = nn.Linear(width, lite0.FEATURES)
            teacher = teacher.eval().requires_grad_(False)
        self._teacher = (teacher,)  # in a tuple: neither trained nor kept in checkpoints
        self._layout: dict[str, Tensor] = {}

    def forward(self, batch: MixtureBatch) -> Tensor:
        assert batch.pixel_values is not None, "every sample of a mixture has a picture"
        if not self._layout:
            self._layout = _layout(batch, self.spans, self.image_token_id, self.num_patches)
        at = self._layout
        labelled = at["labelled"].numel()
        pixels = batch.pixel_values
        blended, share = pixels[:0], batch.draws[:0]
        if labelled:
            blended, share = blend(pixels[:labelled], at["partner"], batch.draws[:labelled])
            pixels = torch.cat([blended, pixels[labelled:]])
        taught, (teacher,) = None, self._teacher
        if teacher is not None:
            with torch.no_grad():
                taught = teacher(blended)
        text = at["read"][:, None], at["text"][None, :]
        return self.learn(
            pixels, share, batch.classes, taught, batch.input_ids[text], batch.labels[text],
            batch.letters, batch.patches, batch.census, batch.counts, at,
        )  # fmt: skip

    def learn(
        self,
        pixels: Tensor,
        share: Tensor,
        classes: Tensor,
        taught: tuple[Tensor, Tensor, Tensor] | None,
        input_ids: Tensor,
        labels: Tensor,
        letters: Tensor,
        shown: Tensor,
        census: Tensor,
        counts: Mapping[str, int],
        at: Mapping[str, Tensor],
    ) -> Tensor:
        """The sum of all losses: of the reader, the letters, the patches, the classes, and the distance to the teacher.

        taught: the teacher's maps and logits of the pictures with classes, which stand first.
        """
        patches = self.tower(pixels)
        loss = self.reader(patches[at["read"]], input_ids, labels)
        spelling = at["spelling"]
        if len(spelling):
            loss = loss + self.letters.loss(patches[spelling], letters[spelling])
        told = at["told"]
        if len(told):
            loss = loss + self.patch_loss(patches[told], shown[told])
        counted = at["counted"]
        if len(counted):
            loss = loss + CENSUS * self.census_loss(patches[counted], census[counted])
        if not len(at["labelled"]):
            return loss
        photos = patches[: len(at["labelled"])]
        pooled = self.norm(photos.mean(1))
        logits = self.head(pooled).float()
        own = self.class_loss(logits, share, classes, counts, at["partner"])
        if taught is None:
            return loss + own
        middle, last, wanted = taught
        followed = self.distance(logits, wanted.float(), counts) + self.places(photos, middle, last)
        return loss + LABELS * own + followed

    def patch_loss(self, patches: Tensor, shown: Tensor) -> Tensor:
        """Mean cross-entropy of what patches (b, p, d) show, shown (b, p)."""
        found = self.shown(patches).float().flatten(0, 1)
        return F.cross_entropy(found, shown.flatten(), self.shown_weights)

    def census_loss(self, patches: Tensor, census: Tensor) -> Tensor:
        """Mean cross-entropy of what is counted in patches (b, p, d), census (b, p, SLOTS); OUTSIDE counts nothing."""
        found = self.census(patches).float().view(-1, VALUES)
        return F.cross_entropy(found, census.flatten().long(), ignore_index=OUTSIDE)

    def places(self, photos: Tensor, middle: Tensor, last: Tensor) -> Tensor:
        """How far the patches (b, p, d) are from the teacher's maps, each at its own resolution: the middle one by the
        square of standardised features, the last by the cosine."""
        grid = math.isqrt(photos.shape[1])
        square = photos.transpose(1, 2).unflatten(2, (grid, grid))

        def beside(target: Tensor) -> tuple[Tensor, Tensor]:
            here = F.adaptive_avg_pool2d(square, (target.shape[2], target.shape[3]))
            return here.flatten(2).transpose(1, 2), target.float().flatten(2).transpose(1, 2)

        here, wanted = beside(middle)
        mean, deviation = wanted.mean((0, 1)), wanted.std((0, 1), correction=0)
        wanted = (wanted - mean) / (deviation + 1e-3)
        apart = F.mse_loss(self.middle_head(here).float(), wanted)
        here, wanted = beside(last)
        near = F.cosine_similarity(self.features_head(here).float(), wanted, dim=2)
        return apart + (1 - near).mean()

    def class_loss(
        self,
        logits: Tensor,
        share: Tensor,
        classes: Tensor,
        counts: Mapping[str, int],
        partner: Tensor,
    ) -> Tensor:
        """Mean cross-entropy, each picture among the classes of its source, blended ones for both their labels."""
        losses = []
        for rows, columns in parts(counts, self.spans):
            found = logits[rows, columns]
            for labels, weight in (
                (classes[rows], share[rows]),
                (classes[partner[rows]], 1 - share[rows]),
            ):
                loss = F.cross_entropy(
                    found, labels, reduction="none", label_smoothing=LABEL_SMOOTHING
                )
                losses.append((weight * loss).sum())
        return torch.stack(losses).sum() / len(logits)

    def distance(self, logits: Tensor, wanted: Tensor, counts: Mapping[str, int]) -> Tensor:
        """Kullback-Leibler divergence from the teacher, in the classes of each picture's source and in the others."""
        own = [
            _divergence(logits[rows, columns], wanted[rows, columns])
            for rows, columns in parts(counts, self.spans)
        ]
        every = [_divergence(logits[:, c], wanted[:, c]) for c in self.spans.values()]
        elsewhere = ELSEWHERE / len(every) * torch.stack(every).sum()
        return (torch.stack(own).sum() + elsewhere) / len(logits)

    @torch.no_grad()
    def named(self, name: str, pixel_values: Tensor) -> Tensor:
        """The class (b,) that the head of a source gives each picture."""
        pooled = self.norm(self.tower(pixel_values).mean(1))
        return self.head(pooled)[:, self.spans[name]].argmax(1)


def _divergence(logits: Tensor, wanted: Tensor) -> Tensor:
    """The summed divergence of `logits` (b, n) from a teacher's."""
    return F.kl_div(logits.log_softmax(1), wanted.log_softmax(1), reduction="sum", log_target=True)


def _layout(
    batch: MixtureBatch, columns: Mapping[str, slice], image_token_id: int, num_patches: int
) -> dict[str, Tensor]:
    """Which rows and columns of a mixture's batches hold what: the same in every batch, so found once.

    partner (labelled,): with whom each picture is blended; labelled: the rows with classes; read: those that the reader
    reads; spelling: those that show a word; told: those whose patches are known; counted: those with a census; text:
    the columns behind the picture.
    """
    partner, read, start = [], [], 0
    for name, count in batch.counts.items():
        rows = list(range(start, start + count))
        blended = int(count * BLENDED) if name in columns else 0
        if name in columns:
            partner += rows[:blended][::-1] + rows[blended:]
        if name in columns:
            read += rows[-max(1, round(count * READ)) :]
        elif batch.letters[start, 0] < 0:
            read += rows
        start += count
    labelled = sum(rows.stop - rows.start for rows, _ in parts(batch.counts, columns))
    ids = batch.input_ids[0].tolist()
    first = ids.index(image_token_id) + num_patches
    found = {
        "partner": partner,
        "labelled": list(range(labelled)),
        "read": read,
        "told": (batch.patches[:, 0] != UNKNOWN).nonzero().squeeze(1).tolist(),
        "counted": (batch.census != OUTSIDE).any((1, 2)).nonzero().squeeze(1).tolist(),
        "spelling": (batch.letters[:, 0] >= 0).nonzero().squeeze(1).tolist(),
        "text": list(range(first, len(ids))),
    }
    device = batch.input_ids.device
    return {k: torch.tensor(v, dtype=torch.long, device=device) for k, v in found.items()}


def tower_pretraining(
    model: VLMamba, batches: Batches, config: StageConfig
) -> tuple[TowerPretraining, Objective]:
    """The tower of `model` with heads for every source of a mixture that has classes, and the objective."""
    batches = _mixture(batches)
    teacher = lite0.shared_teacher(tuple(batches.num_classes.items()))
    if teacher is not None:
        teacher = teacher.to(model.device)
        teacher.teacher.fold(torch.bfloat16 if model.device.type == "cuda" else torch.float32)
    return _pretraining(model, batches, config, teacher)


def tower_alone(
    model: VLMamba, batches: Batches, config: StageConfig
) -> tuple[TowerPretraining, Objective]:
    """As `tower_pretraining`, without a teacher, whether its package is installed or not."""
    return _pretraining(model, _mixture(batches), config, None)


def _mixture(batches: Batches) -> Mixture:
    if not isinstance(batches, Mixture):
        raise ValueError("a tower is pre-trained on a mixture of pictures")
    return batches


def _pretraining(
    model: VLMamba, batches: Mixture, config: StageConfig, teacher: TeacherTuning | None
) -> tuple[TowerPretraining, Objective]:
    tower = model.model.vision_tower
    pretraining = TowerPretraining(tower, model.config, batches.num_classes, teacher)
    if config.compile:
        compile_layers(tower.encoder.layers)
        compile_layers(pretraining.reader.layers)
    return pretraining.to(model.device), _mean_as_one_token


def compile_layers(layers: Iterable[nn.Module]) -> None:
    """Compiles equal layers one by one: they share one compiled graph, which takes seconds where a whole tower takes
    minutes."""
    for layer in layers:
        layer.compile(dynamic=False)


def _mean_as_one_token(model: TowerPretraining, batch: MixtureBatch) -> tuple[Tensor, Tensor]:
    """The loss in the form that the loop sums."""
    with sdpa_kernel(SHORT_ATTENTION):
        loss = model(batch)
    return loss, torch.ones((), dtype=torch.long, device=loss.device)
