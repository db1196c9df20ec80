"""Our key names are those of the gguf package."""

from __future__ import annotations

import pytest
from gguf.constants import Keys, LlamaFileType

from entrenar_core.gguf import keys

PER_ARCHITECTURE = {
    "VOCAB_SIZE": Keys.LLM.VOCAB_SIZE,
    "CONTEXT_LENGTH": Keys.LLM.CONTEXT_LENGTH,
    "EMBEDDING_LENGTH": Keys.LLM.EMBEDDING_LENGTH,
    "BLOCK_COUNT": Keys.LLM.BLOCK_COUNT,
    "FEED_FORWARD_LENGTH": Keys.LLM.FEED_FORWARD_LENGTH,
    "HEAD_COUNT": Keys.Attention.HEAD_COUNT,
    "HEAD_COUNT_KV": Keys.Attention.HEAD_COUNT_KV,
    "KEY_LENGTH": Keys.Attention.KEY_LENGTH,
    "VALUE_LENGTH": Keys.Attention.VALUE_LENGTH,
    "LAYER_NORM_RMS_EPSILON": Keys.Attention.LAYERNORM_RMS_EPS,
    "SLIDING_WINDOW": Keys.Attention.SLIDING_WINDOW,
    "ATTENTION_SCALE": Keys.Attention.SCALE,
    "ATTENTION_LOGIT_SOFTCAPPING": Keys.LLM.ATTN_LOGIT_SOFTCAPPING,
    "FINAL_LOGIT_SOFTCAPPING": Keys.LLM.FINAL_LOGIT_SOFTCAPPING,
    "ROPE_DIMENSION_COUNT": Keys.Rope.DIMENSION_COUNT,
    "ROPE_FREQ_BASE": Keys.Rope.FREQ_BASE,
    "ROPE_SCALING_TYPE": Keys.Rope.SCALING_TYPE,
    "ROPE_SCALING_FACTOR": Keys.Rope.SCALING_FACTOR,
    "ROPE_SCALING_ATTENTION_FACTOR": Keys.Rope.SCALING_ATTN_FACTOR,
    "ROPE_SCALING_ORIGINAL_CONTEXT_LENGTH": Keys.Rope.SCALING_ORIG_CTX_LEN,
}
WHOLE = {
    "GENERAL_TYPE": Keys.General.TYPE,
    "GENERAL_ARCHITECTURE": Keys.General.ARCHITECTURE,
    "GENERAL_NAME": Keys.General.NAME,
    "GENERAL_ALIGNMENT": Keys.General.ALIGNMENT,
    "GENERAL_FILE_TYPE": Keys.General.FILE_TYPE,
    "GENERAL_QUANTIZATION_VERSION": Keys.General.QUANTIZATION_VERSION,
    "GENERAL_SIZE_LABEL": Keys.General.SIZE_LABEL,
    "SPLIT_NO": Keys.Split.LLM_KV_SPLIT_NO,
    "SPLIT_COUNT": Keys.Split.LLM_KV_SPLIT_COUNT,
    "SPLIT_TENSORS_COUNT": Keys.Split.LLM_KV_SPLIT_TENSORS_COUNT,
    "ADAPTER_TYPE": Keys.Adapter.TYPE,
    "ADAPTER_LORA_ALPHA": Keys.Adapter.LORA_ALPHA,
    "TOKENIZER_MODEL": Keys.Tokenizer.MODEL,
    "TOKENIZER_PRE": Keys.Tokenizer.PRE,
    "TOKENIZER_TOKENS": Keys.Tokenizer.LIST,
    "TOKENIZER_TOKEN_TYPE": Keys.Tokenizer.TOKEN_TYPE,
    "TOKENIZER_SCORES": Keys.Tokenizer.SCORES,
    "TOKENIZER_MERGES": Keys.Tokenizer.MERGES,
    "TOKENIZER_BOS_ID": Keys.Tokenizer.BOS_ID,
    "TOKENIZER_EOS_ID": Keys.Tokenizer.EOS_ID,
    "TOKENIZER_EOT_ID": Keys.Tokenizer.EOT_ID,
    "TOKENIZER_EOM_ID": Keys.Tokenizer.EOM_ID,
    "TOKENIZER_UNKNOWN_ID": Keys.Tokenizer.UNK_ID,
    "TOKENIZER_SEPARATOR_ID": Keys.Tokenizer.SEP_ID,
    "TOKENIZER_PADDING_ID": Keys.Tokenizer.PAD_ID,
    "TOKENIZER_ADD_BOS": Keys.Tokenizer.ADD_BOS,
    "TOKENIZER_ADD_EOS": Keys.Tokenizer.ADD_EOS,
    "TOKENIZER_ADD_SPACE_PREFIX": Keys.Tokenizer.ADD_PREFIX,
    "TOKENIZER_REMOVE_EXTRA_WHITESPACES": Keys.Tokenizer.REMOVE_EXTRA_WS,
    "CHAT_TEMPLATE": Keys.Tokenizer.CHAT_TEMPLATE,
    "CHAT_TEMPLATES": Keys.Tokenizer.CHAT_TEMPLATES,
}


@pytest.mark.parametrize(("name", "theirs"), PER_ARCHITECTURE.items())
def test_a_key_of_one_architecture_is_that_of_gguf_py(name: str, theirs: str) -> None:
    assert keys.architecture_key("llama", getattr(keys, name)) == theirs.format(arch="llama")


@pytest.mark.parametrize(("name", "theirs"), WHOLE.items())
def test_a_key_is_that_of_gguf_py(name: str, theirs: str) -> None:
    assert getattr(keys, name) == theirs


def test_named_chat_templates_have_their_own_key() -> None:
    assert keys.chat_template_key("tool_use") == Keys.Tokenizer.CHAT_TEMPLATE_N.format(name="tool_use")


def test_file_types_are_those_of_llama_cpp() -> None:
    theirs = {kind.name.removeprefix("MOSTLY_").removeprefix("ALL_"): kind.value for kind in LlamaFileType}
    assert {kind.name: kind.value for kind in keys.FileType}.items() <= theirs.items()
