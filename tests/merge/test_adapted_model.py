"""A model with an adapter on top gives the rows of W + s·B·A, from any thread."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from entrenar_core.errors import FormatError, ModelError
from entrenar_core.gguf.values import MetadataValue, ValueType
from entrenar_core.lora.files import AdapterPair, write_adapter
from entrenar_core.merge import adapted_model
from entrenar_core.merge.models import open_model
from tests.hugging_face.folder import write_folder
from tests.lora.test_peft_files import write_peft
from tests.model.tiny import lively, lively_weights
from tests.stages.tiny_base import base_spec, write_base

Q, UP = "blk.0.attn_q.weight", "blk.1.ffn_up.weight"


def pairs() -> dict[str, AdapterPair]:
    shapes = {Q: (32, 32), UP: (64, 32)}
    return {
        name: AdapterPair(lively(f"{name}a", (4, n_in)), lively(f"{name}b", (n_out, 4)), 2.0)
        for name, (n_out, n_in) in shapes.items()
    }


def adapter_file(path: Path) -> Path:
    write_adapter(path, "llama", pairs(), alpha=8.0)
    return path


def test_the_rows_are_those_of_the_sum(tmp_path: Path, rng: np.random.Generator) -> None:
    base = write_base(tmp_path / "m.gguf")
    weights = lively_weights(base_spec())
    with closing(open_model(base, adapter_file(tmp_path / "a.gguf"))) as model:
        for name in (Q, UP, "blk.0.attn_k.weight"):
            expected = weights[name] + (pairs()[name].delta() if name in pairs() else 0)
            for _ in range(10):
                first = int(rng.integers(len(expected)))
                out = np.empty((int(rng.integers(1, len(expected) - first + 1)), 32), np.float32)
                model.read(name, first, out)
                np.testing.assert_allclose(out, expected[first : first + len(out)], atol=1e-5)


def test_all_else_is_that_of_the_base(tmp_path: Path) -> None:
    base, adapter = write_base(tmp_path / "m.gguf", type_name="Q8_0"), adapter_file(tmp_path / "a.gguf")
    with closing(open_model(base, adapter)) as model, closing(open_model(base)) as plain:
        assert model.path == f"{base} with {adapter}"
        assert (model.architecture, model.shapes, model.metadata) == (plain.architecture, plain.shapes, plain.metadata)
        assert (model.type_name(Q), list(model.tokens)) == ("Q8_0", list(plain.tokens))
        assert model.n_bytes == plain.n_bytes + adapter.stat().st_size


def test_threads_share_the_matrices_of_the_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapted_model, "_PAIRS_KEPT", 1)  # so that they push each other's matrices out
    expected = {name: lively_weights(base_spec())[name] + one.delta() for name, one in pairs().items()}
    wrong: list[str] = []
    with closing(open_model(write_base(tmp_path / "m.gguf"), adapter_file(tmp_path / "a.gguf"))) as model:

        def read(seed: int) -> None:
            for step in range(60):
                name = (Q, UP)[(seed + step) % 2]
                out = np.empty(expected[name].shape, np.float32)
                model.read(name, 0, out)
                if not np.allclose(out, expected[name], atol=1e-5):
                    wrong.append(name)

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_a_peft_adapter_goes_on_a_folder_and_on_its_gguf_alike(tmp_path: Path) -> None:
    module = "base_model.model.model.layers.0.self_attn.q_proj"
    arrays = {f"{module}.lora_A.weight": lively("a", (3, 32)), f"{module}.lora_B.weight": lively("b", (32, 3))}
    peft = write_peft(tmp_path / "peft", arrays)
    rows = []
    for path in (write_folder(tmp_path / "hf", base_spec()), write_base(tmp_path / "m.gguf")):
        with closing(open_model(path, peft)) as model:
            out = np.empty((32, 32), np.float32)
            model.read(Q, 0, out)
            rows.append(out)
    np.testing.assert_array_equal(*rows)
    assert np.abs(rows[0] - lively_weights(base_spec())[Q]).max() > 0.1


KEY_VALUE_HEADS = "llama.attention.head_count_kv"


def peft_of_keys(folder: Path) -> Path:
    """An adapter of attn_k, whose rows stand in another order in Hugging Face."""
    module = "base_model.model.model.layers.0.self_attn.k_proj"
    pair = {f"{module}.lora_A.weight": lively("a", (3, 32)), f"{module}.lora_B.weight": lively("b", (16, 3))}
    return write_peft(folder / "peft", pair)


def test_heads_that_are_counted_layer_by_layer_order_the_rows_as_one_number_does(tmp_path: Path) -> None:
    listed = MetadataValue.array(ValueType.UINT32, [2, 2])
    peft, rows = peft_of_keys(tmp_path), []
    for name, extra in (("one", []), ("listed", [(KEY_VALUE_HEADS, listed)])):
        with closing(open_model(write_base(tmp_path / f"{name}.gguf", extra=extra), peft)) as model:
            out = np.empty((16, 32), np.float32)
            model.read("blk.0.attn_k.weight", 0, out)
            rows.append(out)
    np.testing.assert_array_equal(*rows)


def test_heads_that_differ_by_layer_leave_the_order_of_rows_unknown(tmp_path: Path) -> None:
    listed = MetadataValue.array(ValueType.UINT32, [2, 4])
    base = write_base(tmp_path / "m.gguf", extra=[(KEY_VALUE_HEADS, listed)])
    with pytest.raises(ModelError, match=f"{KEY_VALUE_HEADS} differs from layer to layer") as caught:
        open_model(base, peft_of_keys(tmp_path))
    assert caught.value.where == str(tmp_path / "peft")


@pytest.mark.parametrize("part", ["A", "B"])
def test_an_adapter_with_nan_is_refused_with_the_weight(part: str, tmp_path: Path) -> None:
    a, b = lively("a", (4, 32)), lively("b", (32, 4))
    (a if part == "A" else b)[2, 1] = np.nan
    write_adapter(tmp_path / "a.gguf", "llama", {Q: AdapterPair(a, b, 2.0)}, alpha=8.0)
    with closing(open_model(write_base(tmp_path / "m.gguf"), tmp_path / "a.gguf")) as model:
        model.read(UP, 0, np.empty((64, 32), np.float32))
        with pytest.raises(FormatError, match="row 2, column 1 is nan") as caught:
            model.read(Q, 0, np.empty((1, 32), np.float32))
    assert caught.value.where == f"{tmp_path / 'a.gguf'}: {part} of {Q}"


def test_an_adapter_for_another_model_is_refused(tmp_path: Path) -> None:
    wide = write_base(tmp_path / "wide.gguf", base_spec(intermediate_size=96))
    with pytest.raises(ModelError, match=rf"the adapter of {UP} is for \[64, 32\], the model has \[96, 32\]"):
        open_model(wide, adapter_file(tmp_path / "a.gguf"))
    qwen = write_base(tmp_path / "qwen.gguf", base_spec("qwen2"))
    with pytest.raises(ModelError, match="the adapter is for a llama model, not qwen2"):
        open_model(qwen, tmp_path / "a.gguf")


def test_an_embedding_that_is_the_output_matrix_too_takes_no_adapter(tmp_path: Path) -> None:
    spec = base_spec(tie_embeddings=True)
    module = "base_model.model.model.embed_tokens"
    rows = spec.vocab_size
    arrays = {f"{module}.lora_embedding_A": np.ones((3, rows)), f"{module}.lora_embedding_B": np.ones((32, 3))}
    with pytest.raises(ModelError, match="which is the output matrix of this model too"):
        open_model(write_base(tmp_path / "m.gguf", spec), write_peft(tmp_path / "peft", arrays))
