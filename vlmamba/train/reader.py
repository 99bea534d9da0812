"""What asks a tower to look closely while it is pre-trained, and is thrown away afterwards.

A reader answers questions from the patches (captioning as pre-training: arXiv 2306.07915), which teaches places,
counts and colours; a letter head spells the word in a picture, which the reader alone would learn slowly. Both are
small Transformers and not the model's own Mamba, so that one graph holds tower and all.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmamba.config import IGNORE_INDEX
from vlmamba.data.words import CHARACTERS, LONGEST


class ReaderLayer(nn.Module):
    """Pre-norm causal Transformer layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, l, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, l, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(b, l, d))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x)), approximate="tanh"))


class Reader(nn.Module):
    """Reads patches, then text, and predicts the text's next tokens."""

    def __init__(
        self, width: int, vocab_size: int, heads: int, layers: int = 2, longest: int = 128
    ) -> None:
        super().__init__()
        self.patches = nn.Linear(width, width)
        self.embeddings = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(longest, width)
        self.layers = nn.ModuleList(ReaderLayer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        for table in (self.embeddings, self.positions):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, patches: Tensor, input_ids: Tensor, labels: Tensor) -> Tensor:
        """patches (b, p, d), the ids and labels (b, l) of the text behind them -> mean loss over supervised tokens."""
        l = input_ids.shape[1]
        text = self.embeddings(input_ids) + self.positions.weight[:l]
        x = torch.cat([self.patches(patches), text.to(patches.dtype)], 1)
        for layer in self.layers:
            x = layer(x)
        hidden = self.norm(x[:, -l:-1])
        logits = F.linear(hidden, self.embeddings.weight.to(hidden.dtype)).float()
        targets = labels[:, 1:]
        total = F.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE_INDEX, reduction="sum"
        )
        return total / (targets != IGNORE_INDEX).sum().clamp(min=1)


class LetterHead(nn.Module):
    """Spells a word: one query a place, which looks for its character among the patches."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.queries = nn.Parameter(torch.randn(LONGEST, width) * 0.02)
        self.norm, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.kv = nn.Linear(width, 2 * width)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.characters = nn.Linear(width, len(CHARACTERS) + 2)

    def forward(self, patches: Tensor) -> Tensor:
        """patches (b, p, d) -> logits (b, LONGEST, characters): see `data.words.spelt`."""
        b, p, d = patches.shape
        k, v = self.kv(self.norm(patches)).view(b, p, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        q = (
            self.queries.to(k.dtype)
            .view(1, LONGEST, self.heads, -1)
            .transpose(1, 2)
            .expand(b, -1, -1, -1)
        )
        x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, LONGEST, d)
        x = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return self.characters(self.norm3(x))

    def loss(self, patches: Tensor, letters: Tensor) -> Tensor:
        """Mean cross-entropy of the letters (b, LONGEST), -1 where there is no word."""
        logits = self(patches).float()
        total = F.cross_entropy(
            logits.flatten(0, 1), letters.flatten(), ignore_index=-1, reduction="sum"
        )
        return total / (letters >= 0).sum().clamp(min=1)
