"""Every tensor gets the type that llama-quantize gives it: whole files are quantized by the library and read again."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from entrenar_core.gguf.keys import FileType
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.values import MetadataValue
from entrenar_core.gguf.writer import encode_tensor, write_gguf
from entrenar_core.quant.mixes import MAIN_TYPE, MixRequest, choose_types
from entrenar_core.quant.plan import model_facts, shapes_and_types

llama_cpp = pytest.importorskip("llama_cpp")

NEED_IMPORTANCE = ("q2_k_s",)
"""What llama-quantize does not write without an importance matrix."""

MIXES = tuple(name for name in MAIN_TYPE if name not in NEED_IMPORTANCE)


@dataclass(frozen=True)
class Case:
    """A model of small random matrices; rows of `columns` values."""

    architecture: str = "llama"
    layers: int = 3
    heads: int = 4
    kv_heads: int = 4
    experts: int = 0
    tied: bool = False
    columns: int = 256
    modules: tuple[str, ...] = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    first_value_layer: int = 0
    extra: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield "token_embd.weight", (4, self.columns)
        yield from self.extra.items()
        for layer in range(self.layers):
            yield f"blk.{layer}.attn_norm.weight", (self.columns,)
            for module in self.modules:
                if module != "attn_v" or layer >= self.first_value_layer:
                    shape = (2, self.columns)
                    yield f"blk.{layer}.{module}.weight", (2, *shape) if module.endswith("exps") else shape
        if not self.tied:
            yield "output.weight", (4, self.columns)

    def write(self, path: Path) -> Path:
        name = self.architecture
        numbers = {
            "block_count": self.layers,
            "context_length": 16,
            "embedding_length": 256,
            "feed_forward_length": 256,
            "attention.head_count": self.heads,
            "attention.head_count_kv": self.kv_heads,
            **({"expert_count": self.experts, "expert_used_count": 2} if self.experts else {}),
        }
        metadata = [
            ("general.architecture", MetadataValue.string(name)),
            *((f"{name}.{key}", MetadataValue.uint32(value)) for key, value in numbers.items()),
            (f"{name}.attention.layer_norm_rms_epsilon", MetadataValue.float32(1e-5)),
            (f"{name}.attention.layer_norm_epsilon", MetadataValue.float32(1e-5)),
        ]
        rng = np.random.default_rng(1)
        tensors = [
            encode_tensor(key, rng.standard_normal(shape).astype(np.float32), "F32") for key, shape in self.shapes()
        ]
        write_gguf(path, metadata, tensors)
        return path


MOE = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
CASES = {
    "llama": Case(layers=17),
    "one layer": Case(layers=1),
    "grouped heads": Case(layers=8, heads=8, kv_heads=2),
    "tied": Case("qwen2", layers=6, tied=True),
    "rows of 288": Case(layers=2, columns=288),
    "rows of 288, tied": Case(layers=2, columns=288, tied=True),
    "rows of 40": Case(layers=2, columns=40),
    "70b": Case(layers=80, heads=8, kv_heads=1, modules=("attn_v", "ffn_down")),
    "70b without groups": Case(layers=80, modules=("attn_v", "ffn_down")),
    "eight experts": Case(layers=16, heads=8, kv_heads=2, experts=8, modules=MOE),
    "four experts": Case(layers=16, experts=4, modules=MOE),
    "shared experts": Case(layers=16, experts=4, modules=(*MOE, "ffn_down_shexp", "ffn_up_shexp")),
    "two down projections": Case(layers=16, modules=("attn_v", "ffn_down", "ffn_down_shexp")),
    "joined values": Case("gpt2", layers=17, modules=("attn_qkv", "attn_output", "ffn_up", "ffn_down")),
    "falcon": Case("falcon", layers=33, modules=("attn_qkv", "attn_output", "ffn_up", "ffn_down")),
    "not all layers have values": Case(layers=16, first_value_layer=4),
    "tensors that are kept": Case(
        layers=1,
        extra={
            "blk.0.ssm_conv1d.weight": (4, 256),
            "blk.0.time_mix_w1.weight": (4, 256),
            "blk.0.time_mix_key.weight": (4, 256),
            "blk.0.attn_rel_b.weight": (4, 256),
            "blk.0.indexer.k_proj.weight": (4, 256),
            "blk.0.shortconv.conv.weight": (4, 256),
            "position_embd.weight": (4, 256),
            "token_types.weight": (4, 256),
            "per_layer_token_embd.weight": (4, 256),
            "per_layer_model_proj.weight": (4, 256),
            "blk.0.one_row.weight": (1, 256),
            "blk.0.attn_q.bias": (256,),
            "blk.0.some_table": (4, 256),
        },
    ),
}


def parameters(mix: str) -> ctypes.Structure:
    chosen = llama_cpp.llama_model_quantize_default_params()
    chosen.ftype, chosen.nthread = int(FileType[mix.upper()]), 1
    return chosen


def quantized_types(source: Path, target: Path, chosen: ctypes.Structure) -> dict[str, str]:
    """Types by name in the file that llama.cpp writes."""
    assert llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(chosen)) == 0
    with GGUFFile.open(target) as file:
        return {name: info.type_name for name, info in file.tensors.items()}


def our_types(source: Path, request: MixRequest) -> dict[str, str]:
    with GGUFFile.open(source) as file:
        return {name: one.type_name for name, one in choose_types(shapes_and_types(file), request).items()}


def request_for(source: Path, mix: str, **options: object) -> MixRequest:
    with GGUFFile.open(source) as file:
        return MixRequest(mix, model=model_facts(file.metadata), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", CASES)
def test_every_mix_gives_every_tensor_the_same_type(name: str, tmp_path: Path) -> None:
    source = CASES[name].write(tmp_path / "model.gguf")
    wrong = {}
    for mix in MIXES:
        theirs = quantized_types(source, tmp_path / "out.gguf", parameters(mix))
        ours = our_types(source, request_for(source, mix))
        assert list(ours) == [key for key, _ in CASES[name].shapes()]
        wrong |= {(mix, key): (ours[key], theirs[key]) for key in ours if ours[key] != theirs[key]}
    assert wrong == {}


@pytest.mark.parametrize("mix", ["q4_0", "q4_k_m", "q8_0"])
@pytest.mark.parametrize("tied", [False, True])
def test_pure_files_and_stated_types(mix: str, tied: bool, tmp_path: Path) -> None:
    source = Case(layers=4, tied=tied).write(tmp_path / "model.gguf")
    chosen = parameters(mix)
    chosen.pure = True
    theirs = quantized_types(source, tmp_path / "pure.gguf", chosen)
    assert our_types(source, request_for(source, mix, pure=True)) == theirs

    chosen = parameters(mix)
    chosen.output_tensor_type, chosen.token_embedding_type = 6, 8  # Q5_0, Q8_0
    theirs = quantized_types(source, tmp_path / "stated.gguf", chosen)
    assert our_types(source, request_for(source, mix, output_type="q5_0", embedding_type="q8_0")) == theirs


class Override(ctypes.Structure):
    """`llama_model_tensor_override`: a pattern and a type; the last one has no pattern."""

    _fields_ = (("pattern", ctypes.c_char_p), ("type", ctypes.c_int))


@pytest.mark.parametrize("pattern", ["attn_v", r"blk\.[02]\..*_down", "token_embd", "output", "ffn"])
def test_patterns(pattern: str, tmp_path: Path) -> None:
    """Tensors that a pattern has found are not counted among the layers of their kind."""
    for tied in (False, True):
        source = Case(layers=16, tied=tied).write(tmp_path / "model.gguf")
        overrides = (Override * 2)(Override(pattern.encode(), 8), Override(None, 0))
        chosen = parameters("q4_k_m")
        field_type = dict(type(chosen)._fields_)["tt_overrides"]
        chosen.tt_overrides = ctypes.cast(overrides, field_type)
        theirs = quantized_types(source, tmp_path / "out.gguf", chosen)
        assert our_types(source, request_for(source, "q4_k_m", tensor_types=((pattern, "q8_0"),))) == theirs


class ImportanceData(ctypes.Structure):
    """`llama_model_imatrix_data`: the importance of one tensor; the last one has no name."""

    _fields_ = (("name", ctypes.c_char_p), ("data", ctypes.POINTER(ctypes.c_float)), ("size", ctypes.c_size_t))


@pytest.mark.parametrize("mix", ["q4_0", "q5_0", "q2_k_s", "iq4_nl", "iq4_xs", "q4_k_m"])
def test_an_importance_matrix_changes_some_choices(mix: str, tmp_path: Path) -> None:
    source = Case(layers=16, heads=8, kv_heads=2).write(tmp_path / "model.gguf")
    ones = np.ones(256, np.float32)
    data = ones.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    names = [name for name, shape in Case(layers=16).shapes() if len(shape) > 1]
    entries = [ImportanceData(name.encode(), data, 256) for name in names]
    importance = (ImportanceData * (len(names) + 1))(*entries, ImportanceData(None, None, 0))
    chosen = parameters(mix)
    chosen.imatrix = ctypes.cast(importance, dict(type(chosen)._fields_)["imatrix"])
    theirs = quantized_types(source, tmp_path / "out.gguf", chosen)
    assert our_types(source, request_for(source, mix, has_importance=True)) == theirs
