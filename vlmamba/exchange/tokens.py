"""The tokenizer of an imported language model: its own where it lies beside the weights, else GPT-NeoX's."""

import shutil
from pathlib import Path

from tokenizers import Tokenizer

from vlmamba.config import MambaConfig
from vlmamba.exchange.sources import Checkpoint, locate
from vlmamba.exchange.writing import write_json
from vlmamba.processing import add_image_token, read_tokenizer
from vlmamba.weight_files import CheckpointError

GPT_NEOX = (
    "EleutherAI/gpt-neox-20b"  # of every Mamba that state-spaces published; their files lack it
)
EOS, PAD = "<|endoftext|>", "<|padding|>"
_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


def tokenizer_file(language: Checkpoint, named: str | None) -> Path:
    """tokenizer.json: of what `named` names, or beside the language model's weights, or GPT-NeoX's.

    Raises FileNotFoundError when it is nowhere.
    """
    beside = language.directory / "tokenizer.json"
    if named is None and beside.is_file():
        return beside
    try:
        found = locate(named or GPT_NEOX, weights=False)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"the tokenizer: {error}; name its directory with --tokenizer"
        ) from None
    return found / "tokenizer.json" if found.is_dir() else found


def special_tokens(tokenizer: Tokenizer, text: MambaConfig) -> dict[str, int]:
    """Adds the image token in the first free row of the vocabulary; the arguments for `Processor`.

    Raises CheckpointError for a tokenizer without the two tokens that GPT-NeoX's has, or with no row left.
    """
    eos, pad = tokenizer.token_to_id(EOS), tokenizer.token_to_id(PAD)
    if eos is None or pad is None:
        raise CheckpointError(
            f"the tokenizer has no {EOS} and {PAD}, as GPT-NeoX's has: name another one with --tokenizer"
        )
    image = add_image_token(tokenizer)
    if max(image, tokenizer.get_vocab_size() - 1) >= text.vocab_size:
        raise CheckpointError(
            f"the language model has {text.vocab_size} rows of embeddings, too few for this tokenizer's tokens "
            "and the image token"
        )
    return {"image_token_id": image, "eos_token_id": eos, "pad_token_id": pad}


def copy_tokenizer(file: Path, directory: Path) -> None:
    """Takes the tokenizer's files along as they are; writes what transformers needs where only one is there."""
    read_tokenizer(file)
    for name in _FILES:
        if (file.parent / name).is_file():
            shutil.copyfile(file.parent / name, directory / name)
    if file.name != "tokenizer.json":
        shutil.copyfile(file, directory / "tokenizer.json")
    if not (directory / "tokenizer_config.json").exists():
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": EOS,
            "pad_token": PAD,
        }
        write_json(directory / "tokenizer_config.json", settings)
