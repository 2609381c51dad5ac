"""Write the exported model as one GGUF file, for llama.cpp and runtimes built on it.

    general.*            name, size, sampling defaults
    qwen3.*              geometry and constants
    tokenizer.ggml.*     vocabulary, merges, special ids, chat template; pre-tokenizer "qwen2"
    tensors              matrices in the requested type, norms in float32

llama.cpp's converter identifies tokenizers by a hash of their ids and refuses unknown vocabularies;
this writer names the pre-tokenizer itself. Called by ``model.export``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

import gguf
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.config.network import Architecture
from model.config.trained_model import SamplingConfig
from model.core.errors import ConfigError
from model.text.tokenizer import IM_END, SPECIAL_TOKENS, Tokenizer

GGUF_NAME: Final = "model.gguf"
PROJECT: Final = "llm-from-scratch"
GgufType = Literal["float32", "float16", "bfloat16"]
TYPES: Final = {
    "float32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "float16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bfloat16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
}
PENALTY_WINDOW: Final = -1  # the whole context
GENERATION_MARKS: Final = re.compile(r"\{%-? *(?:end)?generation *-?%\}")


def write_gguf(
    tensors: Mapping[str, Tensor],
    architecture: Architecture,
    tokenizer: Tokenizer,
    *,
    chat_template: str,
    sampling: SamplingConfig,
    dtype: GgufType,
    path: Path,
) -> None:
    """Write a model and its tokenizer as one file.

    Args:
        tensors: named as in transformers' Qwen3, without a head if it is tied.
        chat_template: Jinja text; transformers' generation marks are removed.
        dtype: of the matrices.
    """
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.QWEN3])
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(PROJECT)
    writer.add_size_label(_size_label(architecture.num_params()))
    writer.add_file_type(TYPES[dtype][1])
    _add_sampling(writer, sampling)
    _add_network(writer, architecture)
    _add_tokenizer(writer, tokenizer, chat_template=chat_template)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, architecture.num_layers)
    for name, tensor in tensors.items():
        gguf_name = names.get_name(name, try_suffixes=(".weight",))
        if gguf_name is None:
            raise ConfigError(
                "a parameter of the model has no name in a GGUF file",
                expected="the parameters of a Qwen3 model",
                found=name,
                fix="fold it into its neighbours before the export, or export.gguf=none",
            )
        data, raw_dtype = _as_array(tensor, dtype)
        writer.add_tensor(gguf_name, data, raw_dtype=raw_dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_sampling(writer: gguf.GGUFWriter, sampling: SamplingConfig) -> None:
    writer.add_sampling_temp(sampling.temperature)
    writer.add_sampling_top_k(sampling.top_k)
    writer.add_sampling_top_p(sampling.top_p)
    writer.add_sampling_min_p(sampling.min_p)
    writer.add_sampling_penalty_repeat(sampling.repetition_penalty)
    writer.add_sampling_penalty_last_n(PENALTY_WINDOW)


def _add_network(writer: gguf.GGUFWriter, architecture: Architecture) -> None:
    writer.add_vocab_size(architecture.vocab_size)
    writer.add_context_length(architecture.context_tokens)
    writer.add_embedding_length(architecture.width)
    writer.add_block_count(architecture.num_layers)
    writer.add_feed_forward_length(architecture.mlp_width)
    writer.add_head_count(architecture.num_heads)
    writer.add_head_count_kv(architecture.num_heads)
    writer.add_key_length(architecture.head_dim)
    writer.add_value_length(architecture.head_dim)
    writer.add_rope_dimension_count(architecture.head_dim)
    writer.add_rope_freq_base(architecture.rope_theta)
    writer.add_layer_norm_rms_eps(architecture.norm_epsilon)


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer, *, chat_template: str) -> None:
    num_ordinary = tokenizer.vocab_size - len(SPECIAL_TOKENS)
    writer.add_tokenizer_model("gpt2")  # byte-level BPE
    writer.add_tokenizer_pre("qwen2")  # llama.cpp's name of our pre-tokenizer regex
    writer.add_token_list(tokenizer.tokens)
    types = [gguf.TokenType.CONTROL] * len(SPECIAL_TOKENS) + [gguf.TokenType.NORMAL] * num_ordinary
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) for pair in tokenizer.merges])
    writer.add_bos_token_id(tokenizer.end_of_text_id)
    writer.add_eos_token_id(tokenizer.end_of_text_id)
    writer.add_eot_token_id(tokenizer.special_id(IM_END))
    writer.add_pad_token_id(tokenizer.pad_id)
    # Every training document and conversation begins with it. A runtime that renders the template,
    # which begins with it too, removes one of the two.
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(without_generation_marks(chat_template))


def without_generation_marks(chat_template: str) -> str:
    """Return a template without transformers' generation tags, which plain Jinja lacks.

    Example:
        >>> without_generation_marks("{%- generation %}{{- text }}{%- endgeneration %}")
        '{{- text }}'
    """
    return GENERATION_MARKS.sub("", chat_template)


def _as_array(
    tensor: Tensor, dtype: GgufType
) -> tuple[npt.NDArray[np.generic], gguf.GGMLQuantizationType]:
    """Return a tensor in the file's type; vectors, which are norms, stay float32."""
    kind = TYPES[dtype][0] if tensor.ndim > 1 else gguf.GGMLQuantizationType.F32
    values = tensor.detach().to("cpu", torch.float32).numpy()
    return gguf.quants.quantize(values, kind), kind


def _size_label(num_params: int) -> str:
    """Return a parameter count in the form of model file names.

    Example:
        >>> _size_label(1_091_712), _size_label(24_000)
        ('1.1M', '24.0K')
    """
    return f"{num_params / 1e6:.1f}M" if num_params >= 1e6 else f"{num_params / 1e3:.1f}K"
