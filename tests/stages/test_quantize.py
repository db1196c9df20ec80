"""`entrenar quantize`: every tensor is what its codec makes of it, nothing else changes, and mistakes leave nothing."""

from __future__ import annotations

import os
from pathlib import Path

import gguf
import numpy as np
import pytest

from entrenar_core.codecs.registry import codec_for
from entrenar_core.errors import ConfigError, FormatError, ModelError, OutputError
from entrenar_core.events import Notice, Progress, Quantized, Quantizing, Saved
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.values import MetadataValue
from entrenar_core.gguf.writer import encode_tensor, write_gguf
from tests.gguf.build_small import small_model
from tests.stages.quantized import expected_bytes, quantize, types_of, write_wide
from tests.train.tiny_model import Listener


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_wide(tmp_path / "source.gguf")


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "source.gguf")


@pytest.mark.parametrize("kind", ["q4_0", "q8_0", "q5_1", "q4_k_m", "f32", "bf16"])
def test_each_tensor_is_what_its_codec_makes_of_it(kind: str, source: Path, tmp_path: Path) -> None:
    quantize(source, tmp_path / "out.gguf", type=kind)
    with GGUFFile.open(source) as before, GGUFFile.open(tmp_path / "out.gguf") as after:
        assert list(before.tensors) == list(after.tensors)
        for name, info in after.tensors.items():
            assert info.shape == before.tensors[name].shape
            assert after.raw(name).tobytes() == expected_bytes(before, name, info.type_name), name


def test_the_bytes_do_not_depend_on_threads_memory_or_measuring(source: Path, tmp_path: Path) -> None:
    written = set()
    for index, (threads, measures) in enumerate([(1, False), (3, False), (2, True)]):
        out = tmp_path / f"out{index}.gguf"
        quantize(source, out, type="q4_k_m", run__threads=threads, measures=measures)
        written.add(out.read_bytes())
    assert len(written) == 1


def test_metadata_survive_and_say_what_the_file_is(source: Path, tmp_path: Path) -> None:
    quantize(source, tmp_path / "out.gguf", type="q4_k_m")
    with GGUFFile.open(source) as before, GGUFFile.open(tmp_path / "out.gguf") as after:
        found = dict(after.metadata)
        assert list(found)[: len(before.metadata)] == list(before.metadata)
        assert found["general.quantization_version"] == 2
        assert found["general.file_type"] == 15
        assert found["entrenar.quantize.type"] == "q4_k_m"
        for key in set(before.metadata) - {"general.quantization_version"}:
            assert found[key] == before.metadata[key]
        reader = gguf.GGUFReader(tmp_path / "out.gguf")
        assert len(reader.tensors) == len(after.tensors)


def test_equal_calls_write_equal_files_and_other_settings_other_digests(source: Path, tmp_path: Path) -> None:
    for name, pure in (("a", False), ("b", False), ("c", True)):
        quantize(source, tmp_path / f"{name}.gguf", type="q8_0", pure=pure)
    a, b, c = ((tmp_path / f"{name}.gguf").read_bytes() for name in "abc")
    assert a == b != c


def test_what_has_its_type_already_is_copied(source: Path, tmp_path: Path) -> None:
    quantize(source, tmp_path / "once.gguf", type="q4_0")
    quantize(tmp_path / "once.gguf", tmp_path / "twice.gguf", type="q4_0")
    with GGUFFile.open(tmp_path / "once.gguf") as once, GGUFFile.open(tmp_path / "twice.gguf") as twice:
        assert all(once.raw(name).tobytes() == twice.raw(name).tobytes() for name in once.tensors)


def test_few_bits_are_only_rounded_again_when_that_is_asked_for(source: Path, tmp_path: Path) -> None:
    quantize(source, tmp_path / "q8.gguf", type="q8_0")
    with pytest.raises(
        FormatError, match=r"have few bits already \(Q8_0\): .*token_embd.weight.* and \d+ more"
    ) as info:
        quantize(tmp_path / "q8.gguf", tmp_path / "out.gguf", type="q4_0")
    assert "--allow-requantize" in str(info.value.hint)
    assert not (tmp_path / "out.gguf").exists()
    quantize(tmp_path / "q8.gguf", tmp_path / "out.gguf", type="q4_0", allow_requantize=True)
    with GGUFFile.open(tmp_path / "q8.gguf") as before, GGUFFile.open(tmp_path / "out.gguf") as after:
        name = "blk.0.attn_q.weight"
        assert after.raw(name).tobytes() == expected_bytes(before, name, "Q4_0")


def test_few_bits_can_be_widened(source: Path, tmp_path: Path) -> None:
    quantize(source, tmp_path / "q8.gguf", type="q8_0")
    quantize(tmp_path / "q8.gguf", tmp_path / "wide.gguf", type="f32")
    with GGUFFile.open(tmp_path / "q8.gguf") as before, GGUFFile.open(tmp_path / "wide.gguf") as after:
        assert set(types_of(tmp_path / "wide.gguf").values()) == {"F32"}
        for name in before.tensors:
            assert np.array_equal(before.load(name), after.load(name))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["q4_0", "q8_0", "q4_k_m", "f16", "bf16", "f32"])
@pytest.mark.parametrize("stored", ["F16", "F32"])
def test_values_that_are_not_finite_are_refused_with_their_place(
    value: float, kind: str, stored: str, tmp_path: Path
) -> None:
    source = write_wide(tmp_path / "source.gguf", type_name=stored, **{"blk.1.attn_k": value})
    with pytest.raises(FormatError) as info:
        quantize(source, tmp_path / "out.gguf", type=kind)
    assert info.value.message == f"the value in row 4, column 3 is {value:g}"
    assert info.value.where == f"{source}: tensor blk.1.attn_k.weight"
    assert left_behind(tmp_path) == []


def test_a_value_that_f16_cannot_hold_is_refused_with_its_tensor(tmp_path: Path) -> None:
    source = write_wide(tmp_path / "source.gguf", type_name="F32", output=1e6)
    with pytest.raises(FormatError, match="too large for F16") as info:
        quantize(source, tmp_path / "out.gguf", type="f16")
    assert "output.weight" in str(info.value.where)


def test_a_value_whose_block_has_no_scale_is_refused_with_its_place(tmp_path: Path) -> None:
    source = write_wide(tmp_path / "source.gguf", type_name="F32", output=1e9)
    with pytest.raises(FormatError, match=r"1e\+09 does not fit a block of Q8_0 \(row 4, column 3\)"):
        quantize(source, tmp_path / "out.gguf", type="q8_0")


def test_types_that_do_not_fit_are_said_once(tmp_path: Path) -> None:
    source, heard = write_wide(tmp_path / "source.gguf", columns=288), Listener()
    quantize(source, tmp_path / "out.gguf", heard, type="q4_k_m")
    messages = [event.message for event in heard.of(Notice)]
    assert len(messages) == 1 or len(set(messages)) == len(messages) == 2
    assert any("get Q5_0 instead of Q4_K" in message for message in messages)
    assert "Q4_K" not in types_of(tmp_path / "out.gguf").values()


def test_it_says_what_it_has_written(source: Path, tmp_path: Path) -> None:
    heard = Listener()
    result = quantize(source, tmp_path / "out.gguf", heard, type="q8_0")
    (summary,), (saved,) = heard.of(Quantized), heard.of(Saved)
    size = (tmp_path / "out.gguf").stat().st_size
    assert summary == result.summary
    assert (summary.n_bytes, saved.n_bytes, summary.source_bytes) == (size, size, source.stat().st_size)
    assert summary.types == {"Q8_0": 14, "F32": 1}
    assert 8.5 < summary.bits_per_weight < 8.8
    assert summary.rmse is None
    assert all(0 <= event.done_bytes <= event.total_bytes for event in heard.of(Quantizing))


def test_devices_and_pipes_are_not_replaced(source: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OutputError, match="a device or a pipe"):
        quantize(source, pipe, overwrite=True, type="q8_0")
    assert pipe.is_fifo()


@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
@pytest.mark.parametrize("kind", ["q4_0", "q4_1", "q8_0"])
def test_scales_are_shared_by_rows_or_by_tensors(granularity: str, kind: str, source: Path, tmp_path: Path) -> None:
    heard = Listener()
    result = quantize(
        source, tmp_path / "out.gguf", heard, type=kind, granularity=granularity, pure=True, measures=True
    )
    with GGUFFile.open(tmp_path / "out.gguf") as after:
        info = after.tensors["blk.0.ffn_up.weight"]
        raw = after.raw(info.name).reshape(-1, 256 // 32, info.raw_shape[-1] // (256 // 32))
        scales = raw[:, :, :2].copy().view("<f2")[..., 0]
        assert (scales == scales[:, :1]).all()
        assert (len(np.unique(scales)) == 1) == (granularity == "per_tensor")
        assert result.summary.sqnr_db is not None
        assert result.summary.sqnr_db > 5
    assert heard.of(Notice) == []


def test_a_matrix_that_is_not_finite_is_refused_with_a_shared_scale_too(tmp_path: Path) -> None:
    source = write_wide(tmp_path / "source.gguf", output=np.nan)
    with pytest.raises(FormatError, match="row 4, column 3 is nan"):
        quantize(source, tmp_path / "out.gguf", type="q8_0", granularity="per_tensor")


def test_files_of_the_other_byte_order_are_read(tmp_path: Path) -> None:
    big = small_model(">").write(tmp_path / "big.gguf")
    little = small_model().write(tmp_path / "little.gguf")
    for path in (big, little):
        with GGUFFile.open(path) as file:
            names = [name for name, info in file.tensors.items() if len(info.shape) > 1]
        assert names
    for path in (big, little):
        quantize(path, path.with_suffix(".out"), type="f32")
    assert big.with_suffix(".out").read_bytes() == little.with_suffix(".out").read_bytes()


def test_a_model_in_several_files_becomes_one(tmp_path: Path) -> None:
    whole = write_wide(tmp_path / "source.gguf")
    with GGUFFile.open(whole) as file:
        names = list(file.tensors)
        for number, part in enumerate((names[:5], names[5:])):
            split = [
                ("split.no", MetadataValue.uint16(number)),
                ("split.count", MetadataValue.uint16(2)),
                ("split.tensors.count", MetadataValue.int32(len(names))),
            ]
            builder = gguf.GGUFWriter(tmp_path / f"part-{number + 1:05}-of-00002.gguf", "llama")
            for key, value in file.metadata.items() if number == 0 else ():
                if key != "general.architecture":
                    (builder.add_uint32 if isinstance(value, int) else builder.add_float32)(key, value)
            for key, value in split:
                (builder.add_int32 if "tensors" in key else builder.add_uint16)(key, value.value)
            for name in part:
                builder.add_tensor(
                    name, file.load(name) if file.tensors[name].type_name == "F32" else file.raw(name).view(np.float16)
                )
            builder.write_header_to_file()
            builder.write_kv_data_to_file()
            builder.write_tensors_to_file()
            builder.close()
    quantize(whole, tmp_path / "a.gguf", type="q4_k_m")
    quantize(tmp_path / "part-00002-of-00002.gguf", tmp_path / "b.gguf", type="q4_k_m")
    with GGUFFile.open(tmp_path / "a.gguf") as a, GGUFFile.open(tmp_path / "b.gguf") as b:
        assert all(a.raw(name).tobytes() == b.raw(name).tobytes() for name in a.tensors)
        assert not any(key.startswith("split.") for key in b.metadata)


def test_the_input_is_never_written_over(source: Path, tmp_path: Path) -> None:
    content = source.read_bytes()
    (tmp_path / "link.gguf").symlink_to(source)
    os.link(source, tmp_path / "hard.gguf")
    for target in (source, tmp_path / "link.gguf", tmp_path / "hard.gguf", tmp_path / "." / "source.gguf"):
        with pytest.raises(OutputError, match="file that is read"):
            quantize(source, target, type="q8_0", overwrite=True)
    assert source.read_bytes() == content


def test_a_file_that_is_there_is_kept_unless_it_may_be_replaced(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    out.write_bytes(b"precious")
    with pytest.raises(OutputError, match="is there already") as info:
        quantize(source, out, type="q8_0")
    assert "--overwrite" in str(info.value.hint)
    assert out.read_bytes() == b"precious"
    quantize(source, out, type="q8_0", overwrite=True)
    assert types_of(out)["output.weight"] == "Q8_0"


def test_places_that_cannot_be_written_are_refused_before_any_work(source: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="does not exist"):
        quantize(source, tmp_path / "no" / "out.gguf", type="q8_0")
    with pytest.raises(OutputError, match="folder of this name"):
        quantize(source, tmp_path, type="q8_0")


def write_kind(path: Path, kind: str, shape: tuple[int, ...] = (64, 64)) -> Path:
    metadata = [("general.architecture", MetadataValue.string("llama")), ("general.type", MetadataValue.string(kind))]
    write_gguf(path, metadata, [encode_tensor("blk.0.attn_q.weight", np.ones(shape, np.float32), "F32")])
    return path


def test_files_that_hold_no_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="LoRA adapter"):
        quantize(write_kind(tmp_path / "a.gguf", "adapter"), tmp_path / "out.gguf", type="q8_0")
    with pytest.raises(ModelError, match="importance matrix"):
        quantize(write_kind(tmp_path / "b.gguf", "imatrix"), tmp_path / "out.gguf", type="q8_0")
    with pytest.raises(ModelError, match="no matrices"):
        quantize(write_kind(tmp_path / "c.gguf", "model", (64,)), tmp_path / "out.gguf", type="q8_0")


def test_a_vocabulary_alone_is_refused(tmp_path: Path) -> None:
    write_gguf(tmp_path / "vocab.gguf", [("general.architecture", MetadataValue.string("llama"))], [])
    with pytest.raises(ModelError, match="a vocabulary alone"):
        quantize(tmp_path / "vocab.gguf", tmp_path / "out.gguf", type="q8_0")


def test_an_architecture_that_nobody_knows_is_quantized(tmp_path: Path) -> None:
    path = tmp_path / "source.gguf"
    shape = (3, 4, 64)
    values = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    write_gguf(
        path,
        [("general.architecture", MetadataValue.string("martian"))],
        [encode_tensor("blk.0.ffn_up_exps.weight", values, "F32")],
    )
    quantize(path, tmp_path / "out.gguf", type="q8_0")
    with GGUFFile.open(tmp_path / "out.gguf") as file:
        assert file.raw("blk.0.ffn_up_exps.weight").tobytes() == codec_for("Q8_0").encode(values).tobytes()


def test_what_a_caller_holds_for_itself_does_not_count(source: Path, tmp_path: Path) -> None:
    held = np.ones(600 * 2**18, np.float32)  # 600 MiB, of the 512 MiB that the command may take
    quantize(source, tmp_path / "out.gguf", type="q8_0")
    assert types_of(tmp_path / "out.gguf")
    assert held[-1] == 1


def test_too_little_memory_is_an_error_with_what_is_needed(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"1 MiB are too little: the program itself takes \d+ MiB"):
        quantize(source, tmp_path / "out.gguf", type="q8_0", run__memory="1MiB")


def test_an_interrupt_leaves_nothing_behind(source: Path, tmp_path: Path) -> None:
    class Impatient(Listener):
        def emit(self, event: object) -> None:
            if isinstance(event, Quantizing):
                raise KeyboardInterrupt

    big = write_wide(tmp_path / "source.gguf", rows=1024, layers=1, columns=1024)
    with pytest.raises(KeyboardInterrupt):
        quantize(big, tmp_path / "out.gguf", Impatient(), type="q4_k_m", run__threads=1)
    assert left_behind(tmp_path) == []


def test_a_target_size_is_met_and_used(source: Path, tmp_path: Path) -> None:
    heard = Listener()
    size = 14 * 8 * 256 * 5 // 8 + 4096
    quantize(source, tmp_path / "out.gguf", heard, target_size=size)
    got = (tmp_path / "out.gguf").stat().st_size
    assert size - 8 * 256 < got <= size
    assert heard.of(Progress)[-1].total == 14
    with GGUFFile.open(tmp_path / "out.gguf") as file:
        assert file.metadata["entrenar.quantize.type"] == "target_size"
        assert file.metadata["general.file_type"] in (11, 12, 14, 15, 17, 18, 25, 30)


def test_a_target_size_keeps_stated_types(source: Path, tmp_path: Path) -> None:
    quantize(source, tmp_path / "out.gguf", target_size=40_000, output_type="f16", tensor_types={"attn_v": "q8_0"})
    found = types_of(tmp_path / "out.gguf")
    assert found["output.weight"] == "F16"
    assert found["blk.0.attn_v.weight"] == found["blk.1.attn_v.weight"] == "Q8_0"


def test_with_room_enough_nothing_changes(source: Path, tmp_path: Path) -> None:
    quantize(source, tmp_path / "out.gguf", target_size="1GB")
    assert types_of(tmp_path / "out.gguf") == types_of(source)


def test_a_size_that_nothing_fits_is_refused_with_the_smallest_that_does(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as info:
        quantize(source, tmp_path / "out.gguf", target_size=10_000)
    least = int(info.value.message.split()[-1])
    quantize(source, tmp_path / "out.gguf", target_size=least)
    assert (tmp_path / "out.gguf").stat().st_size == least
    with pytest.raises(ConfigError):
        quantize(source, tmp_path / "out2.gguf", target_size=least - 1)


def test_a_target_size_does_not_round_few_bits_again_unasked(source: Path, tmp_path: Path) -> None:
    quantize(source, tmp_path / "q4.gguf", type="q4_0", pure=True)
    with pytest.raises(ConfigError, match="smallest possible"):
        quantize(tmp_path / "q4.gguf", tmp_path / "out.gguf", target_size=15_000)
    quantize(tmp_path / "q4.gguf", tmp_path / "out.gguf", target_size=15_000, allow_requantize=True)
    assert (tmp_path / "out.gguf").stat().st_size <= 15_000


def test_a_damaged_block_is_not_copied(tmp_path: Path) -> None:
    path = write_wide(tmp_path / "q8.gguf", type_name="Q8_0")
    with GGUFFile.open(path) as file:
        info = file.tensors["blk.1.ffn_up.weight"]
    content = bytearray(path.read_bytes())
    block = info.offset + 2 * 8 * 34 + 3 * 34
    content[block : block + 2] = b"\x00\x7e"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"blk\.1\.ffn_up\.weight: the value in row 2, column 96 is nan"):
        quantize(path, tmp_path / "out.gguf", type="q8_0")
    assert not (tmp_path / "out.gguf").exists()
