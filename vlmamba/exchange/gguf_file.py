"""The language model as a GGUF file, which llama.cpp runs: architecture "mamba".

Names and the writing are the gguf package's. What llama.cpp expects beyond them (conversion/mamba.py there): A itself
and not its logarithm, the convolution without its middle axis, vectors and convolutions in float32, an expansion of
two, the vocabulary filled up to the table's rows.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from vlmamba.config import MambaConfig
from vlmamba.exchange.tokens import EOS, PAD
from vlmamba.weight_files import CheckpointError, check_finite, writing

_CONTEXT = 2**20  # a state has no limit; llama.cpp wants a number
_CONVOLUTION = ".conv1d.weight"
_TYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def write_gguf(
    file: Path,
    config: MambaConfig,
    tokenizer: Tokenizer,
    shapes: Mapping[str, Sequence[int]],
    read: Callable[[str], Tensor],
    dtype: torch.dtype,
) -> None:
    """shapes: by name as in transformers' MambaForCausalLM; read: gives one tensor. dtype: of the matrices.

    Raises CheckpointError for what llama.cpp cannot run.
    """
    gguf = _library()
    _check(config)
    mapping = gguf.get_tensor_name_map(gguf.MODEL_ARCH.MAMBA, config.n_layer)
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.MAMBA])
    _settings(writer, config)
    file_types = {"F32": "ALL_F32", "F16": "MOSTLY_F16", "BF16": "MOSTLY_BF16"}
    writer.add_file_type(getattr(gguf.LlamaFileType, file_types[_TYPES[dtype]]))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _vocabulary(gguf, writer, config, tokenizer)
    for name, shape in shapes.items():  # the file begins with all of their places
        published = mapping.get_name(name, try_suffixes=(".weight", ".bias"))
        kind = _kind(name, len(shape), dtype)
        size = prod(shape) * kind.itemsize
        if name.endswith(_CONVOLUTION):
            shape = (shape[0], shape[2])
        raw = gguf.GGMLQuantizationType[_TYPES[kind]]
        writer.add_tensor_info(published, shape, np.dtype(np.float32), size, raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name in shapes:
        data = _converted(name, read(name), dtype)
        with writing(file):
            writer.write_tensor_data(data)
    writer.close()


def _check(config: MambaConfig) -> None:
    if config.expand != 2:
        raise CheckpointError(
            f"llama.cpp runs Mamba with expand 2 only, this one has {config.expand}"
        )
    if config.bias or not config.conv_bias:
        raise CheckpointError(
            "llama.cpp runs Mamba without biases in its projections and with one in its convolution only"
        )


def _settings(writer: Any, config: MambaConfig) -> None:
    writer.add_context_length(_CONTEXT)
    writer.add_embedding_length(config.d_model)
    writer.add_feed_forward_length(0)  # Mamba has neither, llama.cpp asks for both
    writer.add_head_count(0)
    writer.add_block_count(config.n_layer)
    writer.add_ssm_conv_kernel(config.d_conv)
    writer.add_ssm_inner_size(config.d_inner)
    writer.add_ssm_state_size(config.d_state)
    writer.add_ssm_time_step_rank(config.dt_rank or -(-config.d_model // 16))
    writer.add_ssm_dt_b_c_rms(False)
    writer.add_layer_norm_rms_eps(config.norm_epsilon)


def _vocabulary(gguf: Any, writer: Any, config: MambaConfig, tokenizer: Tokenizer) -> None:
    model = json.loads(tokenizer.to_str())
    kinds = gguf.TokenType
    added = tokenizer.get_added_tokens_decoder()
    names = {number: token for token, number in tokenizer.get_vocab(with_added_tokens=True).items()}
    tokens, types = [], []
    for number in range(config.vocab_size):
        tokens.append(names.get(number, f"[PAD{number}]"))
        if number not in names:
            types.append(kinds.UNUSED)
        elif number in added:
            types.append(kinds.CONTROL if added[number].special else kinds.USER_DEFINED)
        else:
            types.append(kinds.NORMAL)
    writer.add_tokenizer_model("gpt2")  # byte-level BPE
    writer.add_tokenizer_pre(_pre_tokenizer(model))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    merges = model["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_bos_token_id(tokenizer.token_to_id(EOS) or 0)
    writer.add_eos_token_id(tokenizer.token_to_id(EOS) or 0)
    if (pad := tokenizer.token_to_id(PAD)) is not None:
        writer.add_pad_token_id(pad)
    writer.add_add_bos_token(False)


def _pre_tokenizer(model: dict[str, Any]) -> str:
    """llama.cpp's name for how words are split before BPE (src/llama-vocab.cpp there).

    "mpt" is GPT-2's own splitting, and what its converter takes for GPT-NeoX; "smollm" splits digits before.
    """
    pre = model.get("pre_tokenizer") or {}
    steps = pre.get("pretokenizers", [pre])
    names = [step.get("type") for step in steps]
    split = steps[-1].get("use_regex", True) and not steps[-1].get("add_prefix_space")
    if model["model"].get("type") == "BPE" and split and names == ["ByteLevel"]:
        return "mpt"
    digits = names == ["Digits", "ByteLevel"] and steps[0].get("individual_digits")
    if model["model"].get("type") == "BPE" and split and digits:
        return "smollm"
    raise CheckpointError(
        f"the tokenizer splits words by {names}, which llama.cpp has no name for: byte-level BPE only"
    )


def _kind(name: str, ndim: int, dtype: torch.dtype) -> torch.dtype:
    """Vectors, A, D and the convolution stay in float32."""
    narrow = ndim > 1 and name.endswith(".weight") and not name.endswith(_CONVOLUTION)
    return dtype if narrow else torch.float32


def _converted(name: str, tensor: Tensor, dtype: torch.dtype) -> np.ndarray:
    """The tensor as llama.cpp holds it; bfloat16 as bytes, for numpy has none."""
    if name.endswith(".A_log"):
        tensor = -torch.exp(tensor.float())
    if name.endswith(_CONVOLUTION):
        tensor = tensor.squeeze(1)
    kind = _kind(name, tensor.ndim, dtype)
    tensor = tensor.to(kind).contiguous()
    check_finite(name, tensor)
    return tensor.view(torch.uint8).numpy() if kind == torch.bfloat16 else tensor.numpy()


def _library() -> Any:
    try:
        import gguf
    except ImportError:
        raise CheckpointError(
            "GGUF needs the gguf package: pip install 'vlmamba[export]'"
        ) from None
    return gguf
