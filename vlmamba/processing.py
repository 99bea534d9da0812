"""What goes into the model: pictures -> pixel values, conversations -> ids and labels, ids -> text."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer
from torch import Tensor

from vlmamba.config import IGNORE_INDEX, VisionConfig
from vlmamba.template import IMAGE_TOKEN, Piece, Template, Turn

MAX_QUESTION_CHARS = 8192

Aspect = Literal["pad", "squash", "photo"]
Resample = Literal["bicubic", "bilinear"]

# Photographs are 4 to 3 or 3 to 2. Longer pictures, such as a line of text, lose too much when squashed.
_PHOTO_ASPECT = 1.6
# A longer side is shrunk to this before padding, so that 1 x 50000 makes no canvas of gigabytes.
_MAX_CANVAS = 4096

_RESAMPLING: dict[Resample, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


class QuestionError(ValueError):
    """A question that cannot be asked; the message is one line that says what to do."""


@dataclass(frozen=True)
class ImageSettings:
    """How a picture becomes pixel values: made square, resized, scaled to 0..1, normalised by channel."""

    image_size: int
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    # pad: to a square with the mean colour; squash: scales the sides apart; photo: squashes what has the sides of a
    # photograph and pads what is longer.
    aspect: Aspect = "pad"
    resample: Resample = "bicubic"

    def __post_init__(self) -> None:
        if self.aspect not in get_args(Aspect):
            raise ValueError(
                f"image aspect {self.aspect!r} is unknown: use one of {', '.join(get_args(Aspect))}"
            )
        if self.resample not in _RESAMPLING:
            raise ValueError(
                f"image resample {self.resample!r} is unknown: use one of {', '.join(_RESAMPLING)}"
            )
        if self.image_size < 1 or len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(
                "image settings need a positive image_size, three means and three positive deviations"
            )

    @classmethod
    def for_tower(cls, vision: VisionConfig) -> "ImageSettings":
        """What the published towers of this layout were trained on (CLIP's or SigLIP's own statistics)."""
        if vision.layout == "siglip":
            return cls(vision.image_size)
        return cls(
            vision.image_size,
            mean=(0.48145466, 0.4578275, 0.40821073),
            std=(0.26862954, 0.26130258, 0.27577711),
        )


def square_padding(
    width: int, height: int, mean: Sequence[float]
) -> tuple[int, tuple[int, int], tuple[int, int, int]]:
    """The square that a picture is padded to: its side, the picture's offset (x, y), the fill colour.

    As LLaVA's `expand2square` (llava/mm_utils.py): colour int(255 * mean), offset (side - short) // 2.
    """
    side = max(width, height)
    red, green, blue = (int(255 * m) for m in mean)
    return side, ((side - width) // 2, (side - height) // 2), (red, green, blue)


def pixel_values(pictures: Sequence[Image.Image], settings: ImageSettings) -> Tensor:
    """RGB pictures of any sizes -> (images, c, h, w), float32."""
    size = settings.image_size
    pixels = np.empty((len(pictures), 3, size, size), dtype=np.float32)
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (settings.mean, settings.std))
    # Each is computed in the place where it stays.
    for picture, values in zip(pictures, pixels, strict=True):
        values[:] = np.asarray(square(picture, settings)).transpose(2, 0, 1)
        values /= 255
        values -= mean
        values /= std
    return torch.from_numpy(pixels)


def square(picture: Image.Image, settings: ImageSettings) -> Image.Image:
    """A picture as the tower sees it, in 8 bits a channel."""
    size, method = settings.image_size, _RESAMPLING[settings.resample]
    longest = {"pad": 1.0, "squash": math.inf, "photo": _PHOTO_ASPECT}[settings.aspect]
    if max(picture.size) > longest * min(picture.size):
        if max(picture.size) > _MAX_CANVAS:
            picture = picture.copy()
            picture.thumbnail((_MAX_CANVAS, _MAX_CANVAS), method)
        side, offset, colour = square_padding(picture.width, picture.height, settings.mean)
        canvas = Image.new("RGB", (side, side), colour)
        canvas.paste(picture, offset)
        picture = canvas
    return picture.resize((size, size), method)


def modality_length(texts: Iterable[str], has_picture: bool) -> int:
    """A sample's length as LLaVA's sampler counts it: words over all turns, negative without a picture."""
    words = sum(len(text.split()) for text in texts)
    return words if has_picture else -words


class Processor:
    """Pictures and conversations -> the model's inputs; ids -> an answer's text.

    `num_patches` is the number of image tokens that stand for one picture.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        image: ImageSettings,
        num_patches: int,
        template: Template | None = None,
        *,
        image_token_id: int,
        eos_token_id: int = 0,
        pad_token_id: int = 1,
    ) -> None:
        """Takes the tokenizer over: from now on it reads special tokens in a text as plain text.

        Raises ValueError when the three tokens are not three different special tokens of the tokenizer.
        """
        special = {
            i: token for i, token in tokenizer.get_added_tokens_decoder().items() if token.special
        }
        ids = {"image": image_token_id, "eos": eos_token_id, "pad": pad_token_id}
        for name, token in ids.items():
            if token not in special:
                raise ValueError(
                    f"the {name} token {token} is not a special token of the tokenizer"
                )
        if not isinstance(num_patches, int) or num_patches < 1:
            raise ValueError(f"num_patches must be a positive integer, got {num_patches!r}")
        if len(set(ids.values())) < 3:
            raise ValueError(f"image, eos and pad must be three different tokens, got {ids}")
        tokenizer.encode_special_tokens = True
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.tokenizer = tokenizer
        self.image = image
        self.num_patches = num_patches
        self.template = template or Template()
        self.image_token_id = image_token_id
        self.eos_token_id = eos_token_id
        self.pad_token_id = pad_token_id

    def pixel_values(self, pictures: Sequence[Image.Image]) -> Tensor:
        """RGB pictures of any sizes -> (images, c, h, w), float32."""
        return pixel_values(pictures, self.image)

    def prompt_ids(self, turns: Sequence[Turn]) -> list[int]:
        """A conversation that ends with a question -> ids up to where the assistant begins to write.

        Raises QuestionError for a question that is empty, too long or not text.
        """
        if not turns or turns[-1].role != "user":
            raise ValueError("a prompt ends with the user's turn")
        for turn in turns:
            if turn.role == "user":
                check_question(turn.text)
        return self._encode(self.template.pieces(turns))

    def prefix_ids(self, num_pictures: int) -> list[int]:
        """The part of `prompt_ids` that needs no question: the opening and the pictures."""
        return self._encode(self.template.opening(num_pictures))

    def continue_ids(self, question: str) -> list[int]:
        """The rest of `prompt_ids` after `prefix_ids`, when there is at least one picture."""
        check_question(question)
        return self._encode([self.template.asking(question)])

    def next_turn_ids(self, question: str, num_pictures: int = 0) -> list[int]:
        """What follows an answer and its `end_ids` when the user goes on asking.

        So `prompt_ids` of three turns = `prompt_ids` of the first + the answer + `end_ids` + `next_turn_ids`.
        """
        check_question(question)
        turn = Turn("user", question, num_pictures)
        return self._encode(self.template.user_turn(turn, first=False))

    def end_ids(self) -> list[int]:
        """What ends an answer: eos, or the template's own words."""
        return self._encode([self.template.ending()])

    def training_ids(self, turns: Sequence[Turn]) -> tuple[list[int], list[int]]:
        """A whole conversation -> its ids and labels; learnt are each answer and its end, nothing else.

        Raises ValueError when nothing would be learnt, or the turns do not alternate.
        """
        ids: list[int] = []
        labels: list[int] = []
        for piece in self.template.pieces(turns):
            new = self._encode([piece])
            ids += new
            labels += new if piece.learnt else [IGNORE_INDEX] * len(new)
        if all(label == IGNORE_INDEX for label in reversed(labels)):
            raise ValueError("the conversation has no assistant turn to learn from")
        return ids, labels

    def decode(self, ids: Sequence[int]) -> str:
        """The text of an answer: up to the first eos, without special tokens and surrounding space."""
        ids = list(ids)
        if self.eos_token_id in ids:
            ids = ids[: ids.index(self.eos_token_id)]
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)  # a copy must not share the dictionary it came from
        self.tokenizer.encode_special_tokens = True  # a pickled tokenizer forgets it

    def _encode(self, pieces: Iterable[Piece]) -> list[int]:
        ids: list[int] = []
        for piece in pieces:
            if piece.kind == "picture":
                ids += [self.image_token_id] * self.num_patches
            elif piece.kind == "eos":
                ids.append(self.eos_token_id)
            else:
                ids += self.tokenizer.encode(piece.text, add_special_tokens=False).ids
        return ids

    def save(self, directory: str | Path) -> None:
        """Writes the tokenizer and processor files of a model directory, as transformers reads them too."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        names = {
            "eos_token": self.eos_token_id,
            "pad_token": self.pad_token_id,
            "image_token": self.image_token_id,
        }
        tokens = {name: self.tokenizer.id_to_token(i) for name, i in names.items()}
        settings = {
            "processor_class": "VLMambaProcessor",
            "num_patches": self.num_patches,
            "image_processor": {
                "image_processor_type": "VLMambaImageProcessor",
                "size": {"height": self.image.image_size, "width": self.image.image_size},
                "image_mean": list(self.image.mean),
                "image_std": list(self.image.std),
                "aspect": self.image.aspect,
                "resample": resample_number(self.image.resample),
            },
            "template": asdict(self.template),
        }
        tokenizer_config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "processor_class": "VLMambaProcessor",
            **tokens,
            "extra_special_tokens": {"image_token": tokens["image_token"]},
            "padding_side": "left",
            "clean_up_tokenization_spaces": False,
        }
        self.tokenizer.save(str(directory / "tokenizer.json"))
        _write_json(directory / "tokenizer_config.json", tokenizer_config)
        _write_json(directory / "special_tokens_map.json", tokens)
        _write_json(directory / "processor_config.json", settings)
        (directory / "chat_template.jinja").write_text(self.template.to_jinja(), encoding="utf-8")

    @classmethod
    def load(cls, directory: str | Path) -> "Processor":
        """Reads what `save` wrote.

        Raises FileNotFoundError for a missing file, ValueError naming the file for one that cannot be used.
        """
        directory = Path(directory)
        settings = read_json(directory / "processor_config.json")
        tokens = read_json(directory / "tokenizer_config.json")
        tokenizer = read_tokenizer(directory / "tokenizer.json")
        try:
            ids = {
                f"{name}_id": _token_id(tokenizer, tokens[name])
                for name in ("image_token", "eos_token", "pad_token")
            }
            image = image_settings(settings["image_processor"])
            template = Template(**settings["template"])
            return cls(tokenizer, image, settings["num_patches"], template, **ids)
        except KeyError as error:
            raise ValueError(f"the processor files in {directory} lack the key {error}") from None
        except (TypeError, AttributeError, ValueError) as error:
            raise ValueError(
                f"the processor files in {directory} cannot be used: {error}"
            ) from None


def check_question(text: str) -> None:
    """Raises QuestionError unless `text` can be asked."""
    if not text.strip():
        raise QuestionError("the question is empty: write what you want to know about the picture")
    if len(text) > MAX_QUESTION_CHARS:
        raise QuestionError(
            f"the question is {len(text):,} characters long: at most {MAX_QUESTION_CHARS:,} are read"
        )
    try:
        text.encode()
    except UnicodeEncodeError:
        raise QuestionError("the question holds bytes that are not UTF-8 text") from None


def add_image_token(tokenizer: Tokenizer) -> int:
    """Makes IMAGE_TOKEN a special token of a tokenizer, if it is not one yet, and returns its id."""
    tokenizer.add_special_tokens([AddedToken(IMAGE_TOKEN, special=True, normalized=False)])
    return _token_id(tokenizer, IMAGE_TOKEN)


def gpt_neox_tokens(tokenizer: Tokenizer) -> dict[str, int]:
    """Prepares the GPT-NeoX tokenizer of the published Mamba models, for `Processor(..., **tokens)`.

    Its 50277 tokens are padded to 50280 rows; the image token takes the first free row. Raises ValueError when
    the tokenizer is another one, or has grown past those rows.
    """
    found = {name: tokenizer.token_to_id(name) for name in ("<|endoftext|>", "<|padding|>")}
    if found != {"<|endoftext|>": 0, "<|padding|>": 1}:
        raise ValueError(
            f"this is not the GPT-NeoX tokenizer: eos and pad are {found}, expected 0 and 1"
        )
    image = add_image_token(tokenizer)
    if image != 50277:
        raise ValueError(
            f"this is not the GPT-NeoX tokenizer: its first free id is {image}, expected 50277"
        )
    return {"image_token_id": image, "eos_token_id": 0, "pad_token_id": 1}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; FileNotFoundError or ValueError in one line."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: the model directory is not complete")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds a {type(data).__name__}, expected a JSON object")
    return data


def read_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer.json; FileNotFoundError or ValueError in one line."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: the model directory is not complete")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"{path} is not a readable tokenizer: {error}") from None


def _token_id(tokenizer: Tokenizer, token: str) -> int:
    token_id = tokenizer.token_to_id(token)
    if token_id is None:
        raise ValueError(f"the tokenizer has no token {token!r}")
    return token_id


def resample_number(resample: Resample) -> int:
    """Pillow's number for it, which transformers writes."""
    return int(_RESAMPLING[resample])


def image_settings(data: dict[str, Any]) -> ImageSettings:
    """From the keys that transformers' image processors use."""
    names: dict[int, Resample] = {int(method): name for name, method in _RESAMPLING.items()}
    if data["resample"] not in names:
        known = ", ".join(f"{number} ({name})" for number, name in names.items())
        raise ValueError(f"image resample {data['resample']!r} is unknown: use one of {known}")
    return ImageSettings(
        data["size"]["height"],
        tuple(data["image_mean"]),
        tuple(data["image_std"]),
        data["aspect"],
        names[data["resample"]],
    )


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
