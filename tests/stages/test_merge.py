"""Whole merges of files: what is written is what the method makes of the tensors, in the types asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from entrenar_core.codecs.registry import codec_for
from entrenar_core.config.merge_file import MergeConfig
from entrenar_core.errors import EntrenarError, FormatError, OutputError
from entrenar_core.events import Compiling, Merged, Merging, Notice, SilentReporter
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.jit import jit_enabled
from entrenar_core.merge import cutoffs
from entrenar_core.merge.execute import execute
from entrenar_core.merge.models import open_model
from entrenar_core.merge.passes import Parameters, merge_arrays
from entrenar_core.merge.registry import method_entry
from entrenar_core.stages import merge as merging
from entrenar_core.stages.merge import MergeResult, opened_merge, run_merge
from entrenar_core.stored_kernels import StoredKernel
from tests.merge.memory_models import merge_of
from tests.stages.merge_inputs import write_family, write_lora, write_relative
from tests.stages.tiny_base import base_spec, write_base
from tests.train.tiny_model import Listener

MATRIX = "blk.0.ffn_up.weight"


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, the current one, with base.gguf and its relatives a.gguf and b.gguf."""
    write_family(tmp_path, "a", "b")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def config_of(method: str, *models: str, output: dict[str, Any] | None = None, **more: Any) -> MergeConfig:
    return merge_of(method, models or ["a.gguf", "b.gguf"], {"path": "out.gguf", **(output or {})}, **more)


def run(config: MergeConfig, *, heard: Listener | None = None, **options: Any) -> MergeResult:
    return run_merge(config, heard or SilentReporter(), overwrite=True, **options)


def values_of(path: str) -> dict[str, np.ndarray]:
    with GGUFFile.open(path) as file:
        return {name: file.load(name) for name in file.tensors}


def types_of(path: str) -> dict[str, str]:
    with GGUFFile.open(path) as file:
        return {name: info.type_name for name, info in file.tensors.items()}


def test_each_tensor_is_what_the_method_makes_of_it(family: Path) -> None:
    run(config_of("ties", base="base.gguf", density=0.3))
    base, first, second, merged = (values_of(f"{name}.gguf") for name in ("base", "a", "b", "out"))
    halves = Parameters((1.0, 1.0), (0.3, 0.3), (0.01,) * 2, (0.1,) * 2, (1.0,) * 2, normalize=True)
    for name, values in merged.items():
        expected = merge_arrays(
            method_entry("ties").run, [first[name], second[name]], halves, base=base[name], name=name
        )
        kind = types_of("out.gguf")[name]
        codec = codec_for(kind)
        np.testing.assert_array_equal(values, codec.decode(codec.encode(expected)).reshape(values.shape), name)


def test_the_end_of_the_way_is_the_second_model(family: Path) -> None:
    run(config_of("slerp", t=1.0))
    for name, values in values_of("b.gguf").items():
        np.testing.assert_array_equal(values_of("out.gguf")[name], values)


@pytest.mark.parametrize("method", ["dare_ties", "della", "slerp", "sce"])
def test_the_bytes_are_the_same_whatever_the_number_of_threads(family: Path, method: str) -> None:
    more: dict[str, Any] = {} if method == "slerp" else {"base": "base.gguf"}
    if method in ("dare_ties", "della"):
        more |= {"density": 0.5, "seed": 3}
    written = []
    for threads in (1, 3):
        config = config_of(method, **more)
        run(config.model_copy(update={"run": config.run.model_copy(update={"threads": threads})}))
        written.append(Path("out.gguf").read_bytes())
    assert written[0] == written[1]


def test_a_mix_gives_the_types(family: Path) -> None:
    run(config_of("linear", output={"type": "q8_0"}))
    assert types_of("out.gguf")[MATRIX] == "Q8_0"
    assert types_of("out.gguf")["output_norm.weight"] == "F32"


def test_few_bits_stay_few_bits_and_that_is_said(family: Path) -> None:
    for name in ("a", "b"):
        write_relative(family / f"{name}.gguf", type_name="Q8_0")
    heard = Listener()
    run(config_of("linear"), heard=heard)
    assert types_of("out.gguf")[MATRIX] == "Q8_0"
    said = [event.message for event in heard.of(Notice)]
    assert any("rounded again" in message and "Q8_0" in message for message in said)


def test_layers_that_are_only_stacked_keep_their_bytes(family: Path) -> None:
    write_relative(family / "a.gguf", type_name="Q4_0")
    slices = [{"sources": [{"path": "a.gguf", "layers": [1, 2]}]}, {"sources": [{"path": "a.gguf", "layers": [0, 2]}]}]
    run(merge_of("passthrough", None, {"path": "out.gguf"}, slices=slices))
    with GGUFFile.open("a.gguf") as before, GGUFFile.open("out.gguf") as after:
        assert after.metadata["llama.block_count"] == 3
        for number, layer in enumerate((1, 0, 1)):
            name = f"blk.{number}.ffn_up.weight"
            np.testing.assert_array_equal(after.raw(name), before.raw(name.replace(f".{number}.", f".{layer}.", 1)))


def test_what_an_adapter_leaves_alone_keeps_its_bytes_and_what_it_changes_is_said_to_be_rounded(family: Path) -> None:
    write_base(family / "few.gguf", type_name="Q4_0")
    write_lora(family / "lora.gguf", family / "few.gguf", seed=1)
    heard = Listener()
    run(config_of("passthrough", "few.gguf+lora.gguf"), heard=heard)
    with GGUFFile.open("few.gguf") as before, GGUFFile.open("out.gguf") as after:
        np.testing.assert_array_equal(after.raw("token_embd.weight"), before.raw("token_embd.weight"))
        assert not np.array_equal(after.raw(MATRIX), before.raw(MATRIX))
        changed = sum(name.startswith("blk.") and len(info.shape) > 1 for name, info in after.tensors.items())
    [said] = [event.message for event in heard.of(Notice)]
    assert f"rounded again to the few bits of their inputs: {changed} Q4_0" in said


@pytest.mark.skipif(not jit_enabled(), reason="nothing is compiled with ENTRENAR_JIT=0")
def test_kernels_are_ready_before_threads_need_them(family: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count, collect = cutoffs._count_magnitudes, cutoffs._collect_codes
    fresh = [StoredKernel(one.module, one.name, one.returns) for one in (count, collect)]
    monkeypatch.setattr(cutoffs, "_count_magnitudes", fresh[0])
    monkeypatch.setattr(cutoffs, "_collect_codes", fresh[1])
    loaded: list[int] = []

    def begin(*arguments: Any) -> Any:
        loaded.extend(kernel.n_loaded for kernel in fresh)
        return execute(*arguments)

    monkeypatch.setattr(merging, "execute", begin)
    run(config_of("ties", base="base.gguf", density=[{"filter": "mlp", "value": 0.3}]))
    assert loaded == [1, 1]


def test_a_hugging_face_folder_comes_out_and_goes_in(family: Path) -> None:
    run(config_of("linear", output={"path": "folder", "format": "safetensors"}))
    run(config_of("linear"))
    folder = open_model("folder")
    for name, values in values_of("out.gguf").items():
        found = np.empty((int(np.prod(values.shape[:-1])), values.shape[-1]), np.float32)
        folder.read(name, 0, found)
        np.testing.assert_array_equal(found, values.reshape(found.shape), name)
    folder.close()


def test_a_report_says_what_became_of_each_tensor(family: Path) -> None:
    config = config_of("dare_ties", base="base.gguf", density=0.5, output={"report": "report.json"})
    result = run(config)
    document = json.loads(Path("report.json").read_text())
    assert document == json.loads(json.dumps(result.document()))
    found = next(one for one in document["tensors"] if one["name"] == MATRIX)
    assert len(found["norms"]) == len(found["cosines"]) == 2
    assert found["kept"] == pytest.approx([0.5, 0.5], abs=0.1)
    assert document["vocabulary"]["policy"] == "copied"


def test_who_listens_hears_of_progress_and_of_the_result(family: Path) -> None:
    heard = Listener()
    run(config_of("linear"), heard=heard)
    run(config_of("linear"), heard=(again := Listener()))
    assert again.of(Compiling) == [], "kernels are there"
    [last] = heard.of(Merging)[-1:]
    assert (last.done, last.tensors_done) == (last.total, last.tensors)
    [merged] = heard.of(Merged)
    assert (merged.method, merged.models) == ("linear", 2)
    assert merged.n_bytes == Path("out.gguf").stat().st_size


def test_a_task_vector_added_again_gives_the_model(family: Path) -> None:
    run(config_of("task_arithmetic", "a.gguf", base="base.gguf", output={"task_vector": True, "type": "f32"}))
    base, changed, found = values_of("base.gguf"), values_of("a.gguf"), values_of("out.gguf")
    np.testing.assert_allclose(base[MATRIX] + found[MATRIX], changed[MATRIX], atol=1e-6)


def broken(path: Path) -> None:
    """A model with a NaN in its middle."""
    with GGUFFile.open(path) as file:
        info = file.tensors[MATRIX]
        dtype = {"F32": "<f4", "F16": "<f2"}[info.type_name]
    values = np.memmap(path, dtype, "r+", offset=info.offset, shape=(info.n_values,))
    values[info.n_values // 2] = np.nan
    values.flush()


def test_a_nan_is_named_and_leaves_nothing(family: Path) -> None:
    broken(family / "b.gguf")
    before = sorted(path.name for path in family.iterdir())
    with pytest.raises(FormatError) as caught:
        run(config_of("ties", base="base.gguf", output={"report": "report.json"}))
    assert "nan" in caught.value.message
    assert MATRIX in str(caught.value.where)
    assert "b.gguf" in str(caught.value.where)
    assert sorted(path.name for path in family.iterdir()) == before


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ({"path": "a.gguf"}, "the file that is read"),
        ({"path": "there.gguf"}, "the file is there already"),
        ({"path": "no/out.gguf"}, "does not exist"),
        ({"report": "out.gguf"}, "the name of the model"),
        ({"report": "b.gguf"}, "the file that is read"),
        ({"path": "there.gguf", "format": "safetensors"}, "this is the name of a file"),
        ({"path": "out.safetensors"}, "no name of a GGUF file"),
        ({"path": "there", "format": "safetensors"}, "this is no folder"),
        ({"path": "model", "format": "safetensors"}, "the folder is there already"),
        ({"path": "files", "format": "safetensors"}, "no part of a model"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_place_that_cannot_be_written_is_found_first(family: Path, output: dict[str, str], reason: str) -> None:
    (family / "there.gguf").touch()
    (family / "there").touch()
    (family / "model").mkdir()
    (family / "files").mkdir()
    (family / "files" / "thesis.tex").touch()
    with pytest.raises(OutputError, match=reason):
        run_merge(config_of("linear", output=output), SilentReporter())


@pytest.mark.parametrize(
    ("model", "key", "name"),
    [
        ("folder", "report", "folder/config.json"),
        ("m-00001-of-00002.gguf", "path", "m-00002-of-00002.gguf"),
        ("m-00002-of-00002.gguf", "report", "m-00001-of-00002.gguf"),
    ],
)
def test_no_part_of_a_model_that_is_read_is_replaced(family: Path, model: str, key: str, name: str) -> None:
    (family / "folder").mkdir()
    for file in {model, name} - {"folder"}:
        (family / file).touch()
    with pytest.raises(OutputError, match="the file that is read"):
        run(config_of("linear", model, "b.gguf", output={key: name}))


def test_the_folder_of_an_adapter_is_not_replaced(family: Path) -> None:
    (family / "peft").mkdir()
    with pytest.raises(OutputError, match="a model that is read"):
        run(config_of("linear", "a.gguf+peft", "b.gguf", output={"path": "peft", "format": "safetensors"}))


def test_models_that_do_not_fit_are_refused(family: Path) -> None:
    write_base(family / "b.gguf", base_spec(intermediate_size=96))
    with pytest.raises(EntrenarError, match="ffn_"), opened_merge(config_of("linear")):
        pass
