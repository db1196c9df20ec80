"""What `entrenar calibrate` measures and writes: against transformers, and in llama.cpp's quantizer.

The sums are those of hooks on the Hugging Face model with the same weights. The file, read with gguf-py as
llama-quantize reads it, goes into `llama_model_quantize`, which weighs its Q4_0 errors by it.
"""

from __future__ import annotations

import ctypes
import json
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

llama_cpp = pytest.importorskip("llama_cpp")
torch = pytest.importorskip("torch", reason="torch is not installed (extra: oracle)")
transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra: oracle)")

from entrenar_core.codecs.registry import codec_for  # noqa: E402
from entrenar_core.config.quantize import Calibration  # noqa: E402
from entrenar_core.events import SilentReporter  # noqa: E402
from entrenar_core.gguf.reader import GGUFFile  # noqa: E402
from entrenar_core.stages.calibrate import ModelText, calibration_rows, run_calibrate  # noqa: E402
from entrenar_core.tokenizer.build import tokenizer_from_metadata  # noqa: E402

ROWS, SEQ_LEN = 6, 128
INPUT_OF = {
    "self_attn.q_proj": ("attn_q", "attn_k", "attn_v"),
    "self_attn.o_proj": ("attn_output",),
    "mlp.gate_proj": ("ffn_gate", "ffn_up"),
    "mlp.down_proj": ("ffn_down",),
}


@pytest.fixture(scope="module")
def section(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Calibration:
    """A few pieces of Shakespeare, long and short."""
    text = (shared_data / "tinyshakespeare.txt").read_text()
    path = tmp_path_factory.mktemp("calibration") / "texts.jsonl"
    pieces = [text[:1500], text[4000:4100], text[9000:10500], text[20000:20700]]
    path.write_text("".join(json.dumps({"text": piece}) + "\n" for piece in pieces))
    return Calibration(data=str(path), rows=ROWS, seq_len=SEQ_LEN)


@pytest.fixture(scope="module")
def model(shared_data: Path) -> Path:
    return shared_data / "models" / "base-7m-f16.gguf"


@pytest.fixture(scope="module")
def importance(model: Path, section: Calibration, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """The file of `entrenar calibrate`, read with gguf-py: sums and counts by tensor."""
    path = tmp_path_factory.mktemp("imatrix") / "imatrix.gguf"
    run_calibrate(model, path, section, with_output=True, threads=2, reporter=SilentReporter())
    return {tensor.name: np.array(tensor.data) for tensor in gguf.GGUFReader(path).tensors}


def documents(model: Path, section: Calibration) -> list[np.ndarray]:
    """The token ids of every document of the rows that were measured, each on its own."""
    with GGUFFile.open(model) as file:
        text = ModelText(str(model), tokenizer_from_metadata(file.metadata, str(model)), dict(file.metadata), 512)
        rows = calibration_rows(text, section, None, SilentReporter())
    found = []
    for batch in rows.batches:
        for tokens, starts, labels in zip(batch.tokens, batch.starts, batch.labels, strict=True):
            real = int((labels >= 0).sum())
            found += [tokens[:real][starts[:real] == start] for start in np.unique(starts[:real])]
    return found


def test_the_sums_are_those_of_transformers(
    model: Path, section: Calibration, importance: dict[str, np.ndarray], shared_data: Path
) -> None:
    hugging_face = transformers.AutoModelForCausalLM.from_pretrained(
        shared_data / "models" / "base-7m-hf", dtype=torch.float32
    )
    sums: dict[str, np.ndarray] = {}

    def add(name: str, module: Any, arguments: tuple[Any, ...]) -> None:
        del module
        squares = arguments[0].detach().double().square().reshape(-1, arguments[0].shape[-1]).sum(0).numpy()
        sums[name] = sums.get(name, 0) + squares

    for index, layer in enumerate(hugging_face.model.layers):
        for path, names in INPUT_OF.items():
            layer.get_submodule(path).register_forward_pre_hook(partial(add, f"blk.{index}.{names[0]}"))
    hugging_face.lm_head.register_forward_pre_hook(partial(add, "output"))
    all_documents = documents(model, section)
    with torch.no_grad():
        for ids in all_documents:
            hugging_face(torch.from_numpy(ids.astype(np.int64))[None])

    count = sum(len(ids) for ids in all_documents)
    assert 500 < count <= ROWS * SEQ_LEN
    shared = {f"blk.{index}.{names[0]}": names for index in range(6) for names in INPUT_OF.values()}
    assert len(importance) == 2 * (6 * 7 + 1)
    for first, expected in sums.items():
        for name in [f"{first.rsplit('.', 1)[0]}.{one}" for one in shared.get(first, ())] or ["output"]:
            assert importance[f"{name}.weight.counts"].tolist() == [count]
            assert np.allclose(importance[f"{name}.weight.in_sum2"], expected, rtol=1e-3), name


def quantized(model: Path, target: Path, importance: dict[str, np.ndarray] | None) -> dict[str, np.ndarray]:
    """The values of all Q4_0 matrices that llama.cpp makes of a model, by gguf-py; importance as in the file."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread, params.pure = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0, 2, True
    columns = _columns(importance or {})
    entries = (llama_cpp.llama_model_imatrix_data * (len(columns) + 1))()
    for entry, (name, values) in zip(entries, columns.items(), strict=False):
        entry.name, entry.size = name.encode(), values.size
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    if importance is not None:
        params.imatrix = ctypes.cast(entries, type(params.imatrix))
    assert llama_cpp.llama_model_quantize(str(model).encode(), str(target).encode(), ctypes.byref(params)) == 0
    return {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        for tensor in gguf.GGUFReader(target).tensors
        if tensor.tensor_type == gguf.GGMLQuantizationType.Q4_0
    }


def _columns(importance: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Sums by counts, as llama-quantize divides them."""
    names = [name.removesuffix(".in_sum2") for name in importance if name.endswith(".in_sum2")]
    return {
        name: np.ascontiguousarray(importance[f"{name}.in_sum2"] / importance[f"{name}.counts"]).astype(np.float32)
        for name in names
    }


def test_llama_cpp_quantizes_with_the_file(model: Path, importance: dict[str, np.ndarray], tmp_path: Path) -> None:
    plain = quantized(model, tmp_path / "plain.gguf", None)
    weighed = quantized(model, tmp_path / "weighed.gguf", importance)
    columns = _columns(importance)
    with GGUFFile.open(model) as file:
        errors = np.array(
            [
                [
                    (columns[name] * np.square(values[name].astype(np.float64) - file.load(name))).sum()
                    for values in (plain, weighed)
                ]
                for name in columns
            ]
        )
        ours = np.array([_our_error(file.load(name), columns[name]) for name in columns])
    assert (errors[:, 1] < errors[:, 0]).all()
    assert errors[:, 1].sum() < 0.92 * errors[:, 0].sum()
    assert ours.sum() < 1.01 * errors[:, 1].sum()


def _our_error(weights: np.ndarray, columns: np.ndarray) -> float:
    """The weighted squared error of our Q4_0 with the same importance."""
    codec = codec_for("Q4_0")
    rounded = codec.decode(codec.encode(weights, columns)).astype(np.float64)
    return float((columns * np.square(rounded - weights)).sum())
