"""The metadata keys that entrenar reads or writes, under the names of the GGUF specification.

Keys of one architecture (``llama.block_count``) are made with `architecture_key(architecture, BLOCK_COUNT)`.
"""

from __future__ import annotations

from enum import IntEnum

GENERAL_TYPE = "general.type"
GENERAL_ARCHITECTURE = "general.architecture"
GENERAL_NAME = "general.name"
GENERAL_ALIGNMENT = "general.alignment"
GENERAL_FILE_TYPE = "general.file_type"
GENERAL_QUANTIZATION_VERSION = "general.quantization_version"
QUANTIZATION_VERSION = 2
"""Its value: the layouts of ggml's block types that llama.cpp has had since 2023."""

GENERAL_SIZE_LABEL = "general.size_label"

SPLIT_PREFIX = "split."
SPLIT_NO = "split.no"
SPLIT_COUNT = "split.count"
SPLIT_TENSORS_COUNT = "split.tensors.count"

ADAPTER_TYPE = "adapter.type"
ADAPTER_LORA_ALPHA = "adapter.lora.alpha"

IMATRIX_DATASETS = "imatrix.datasets"
IMATRIX_CHUNK_COUNT = "imatrix.chunk_count"
IMATRIX_CHUNK_SIZE = "imatrix.chunk_size"

QUANTIZE_IMATRIX_PREFIX = "quantize.imatrix."
QUANTIZE_IMATRIX_FILE = "quantize.imatrix.file"
QUANTIZE_IMATRIX_DATASET = "quantize.imatrix.dataset"
QUANTIZE_IMATRIX_ENTRIES = "quantize.imatrix.entries_count"
QUANTIZE_IMATRIX_CHUNKS = "quantize.imatrix.chunks_count"

EXPERT_COUNT = "expert_count"
EXPERT_USED_COUNT = "expert_used_count"
VOCAB_SIZE = "vocab_size"
CONTEXT_LENGTH = "context_length"
EMBEDDING_LENGTH = "embedding_length"
BLOCK_COUNT = "block_count"
FEED_FORWARD_LENGTH = "feed_forward_length"
HEAD_COUNT = "attention.head_count"
HEAD_COUNT_KV = "attention.head_count_kv"
KEY_LENGTH = "attention.key_length"
VALUE_LENGTH = "attention.value_length"
LAYER_NORM_RMS_EPSILON = "attention.layer_norm_rms_epsilon"
SLIDING_WINDOW = "attention.sliding_window"
ATTENTION_SCALE = "attention.scale"
ATTENTION_LOGIT_SOFTCAPPING = "attn_logit_softcapping"
FINAL_LOGIT_SOFTCAPPING = "final_logit_softcapping"
ROPE_DIMENSION_COUNT = "rope.dimension_count"
ROPE_DIMENSION_SECTIONS = "rope.dimension_sections"
ROPE_FREQ_BASE = "rope.freq_base"
ROPE_SCALING_TYPE = "rope.scaling.type"
ROPE_SCALING_FACTOR = "rope.scaling.factor"
ROPE_SCALING_ATTENTION_FACTOR = "rope.scaling.attn_factor"
ROPE_SCALING_ORIGINAL_CONTEXT_LENGTH = "rope.scaling.original_context_length"
ROPE_SCALING_FINETUNED = "rope.scaling.finetuned"
ROPE_SCALE_LINEAR = "rope.scale_linear"  # the key of old files; gguf-py has dropped it

TOKENIZER_MODEL = "tokenizer.ggml.model"
TOKENIZER_PRE = "tokenizer.ggml.pre"
TOKENIZER_TOKENS = "tokenizer.ggml.tokens"
TOKENIZER_TOKEN_TYPE = "tokenizer.ggml.token_type"
TOKENIZER_SCORES = "tokenizer.ggml.scores"
TOKENIZER_MERGES = "tokenizer.ggml.merges"
TOKENIZER_BOS_ID = "tokenizer.ggml.bos_token_id"
TOKENIZER_EOS_ID = "tokenizer.ggml.eos_token_id"
TOKENIZER_EOT_ID = "tokenizer.ggml.eot_token_id"
TOKENIZER_EOM_ID = "tokenizer.ggml.eom_token_id"
TOKENIZER_UNKNOWN_ID = "tokenizer.ggml.unknown_token_id"
TOKENIZER_SEPARATOR_ID = "tokenizer.ggml.seperator_token_id"  # misspelt in the format itself
TOKENIZER_PADDING_ID = "tokenizer.ggml.padding_token_id"
TOKENIZER_ADD_BOS = "tokenizer.ggml.add_bos_token"
TOKENIZER_ADD_EOS = "tokenizer.ggml.add_eos_token"
TOKENIZER_ADD_SPACE_PREFIX = "tokenizer.ggml.add_space_prefix"
TOKENIZER_REMOVE_EXTRA_WHITESPACES = "tokenizer.ggml.remove_extra_whitespaces"
CHAT_TEMPLATE = "tokenizer.chat_template"
CHAT_TEMPLATES = "tokenizer.chat_templates"


class FileType(IntEnum):
    """Values of ``general.file_type``: the type most of a model's matrices have."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q8_0 = 7
    Q5_0 = 8
    Q5_1 = 9
    Q2_K = 10
    Q3_K_S = 11
    Q3_K_M = 12
    Q3_K_L = 13
    Q4_K_S = 14
    Q4_K_M = 15
    Q5_K_S = 16
    Q5_K_M = 17
    Q6_K = 18
    Q2_K_S = 21
    IQ4_NL = 25
    IQ4_XS = 30
    BF16 = 32


def architecture_key(architecture: str, suffix: str) -> str:
    """``("llama", BLOCK_COUNT)`` to ``"llama.block_count"``."""
    return f"{architecture}.{suffix}"


def chat_template_key(name: str) -> str:
    """The key of a named chat template (the unnamed one is CHAT_TEMPLATE)."""
    return f"{CHAT_TEMPLATE}.{name}"
