"""What cannot be merged gets one clear message: what, where, and what to do. Nothing is left behind."""

from __future__ import annotations

import resource
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from entrenar_core.gguf.values import MetadataValue, ValueType
from entrenar_core.gguf.writer import write_gguf
from tests.e2e.command import assert_interrupt_leaves_nothing, call, entrenar, tree
from tests.hugging_face.folder import write_folder
from tests.model.tiny import lively_weights
from tests.stages.merge_inputs import write_family, write_lora, write_relative
from tests.stages.quantized import write_wide
from tests.stages.tiny_base import base_spec, tokenizer_entries, write_base

UP = "blk.1.ffn_up.weight"
TIES = ("a.gguf", "b.gguf", "--base", "base.gguf", "--method", "ties")
LINEAR = ("--method", "linear")


@dataclass(frozen=True)
class Case:
    """What is typed, what the message says in this order, and what is there beside the models base, a and b."""

    name: str
    arguments: tuple[str, ...]
    says: tuple[str, ...]
    spoil: Callable[[Path], Any] = lambda folder: None


def model(name: str, changes: dict[str, Any], **options: Any) -> Callable[[Path], Any]:
    return lambda folder: write_base(folder / name, base_spec(**changes), **options)


def not_finite(value: float) -> Callable[[Path], Any]:
    weights = lively_weights(base_spec())[UP].copy()
    weights[3, 5] = value
    return lambda folder: write_relative(folder / "bad.gguf", replaced={UP: weights})


def cut_at(part: float) -> Callable[[Path], Any]:
    def spoil(folder: Path) -> None:
        data = (folder / "a.gguf").read_bytes()
        (folder / "bad.gguf").write_bytes(data[: int(len(data) * part)])

    return spoil


def vocabulary(folder: Path) -> None:
    write_gguf(folder / "bad.gguf", [("general.architecture", MetadataValue.string("llama")), *tokenizer_entries()], [])


def pickles(folder: Path) -> None:
    write_folder(folder / "hf", base_spec(), tokenizer=tokenizer_entries())
    (folder / "hf" / "model.safetensors").rename(folder / "hf" / "pytorch_model.bin")


def trained_run(folder: Path) -> None:
    (folder / "run").mkdir()
    write_lora(folder / "run" / "adapter.gguf", folder / "base.gguf", seed=1)
    shutil.copy(folder / "a.gguf", folder / "run" / "model.gguf")


def adapter_of_a_wide_model(folder: Path) -> None:
    write_base(folder / "wide.gguf", base_spec(intermediate_size=96))
    write_lora(folder / "lora.gguf", folder / "wide.gguf", seed=1)


def other_words() -> Callable[[Path], Any]:
    tokens = list(dict(tokenizer_entries())["tokenizer.ggml.tokens"].value)
    tokens[7], tokens[8] = "<a>", "<b>"
    other = [("tokenizer.ggml.tokens", MetadataValue.array(ValueType.STRING, tokens))]
    return lambda folder: write_base(folder / "bad.gguf", extra=other)


def yaml(text: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / "m.yaml").write_text(text)


def slices(text: str) -> Callable[[Path], Any]:
    return yaml(f"merge: {{method: passthrough, slices: {text}}}\n")


CASES = [
    Case("one model", ("a.gguf", *LINEAR), ("linear takes at least 2 models, and 1 is named", "name more models")),
    Case("too many models", ("a.gguf", "b.gguf", "base.gguf", "-m", "slerp"), ("slerp takes 2 models", "3 are named")),
    Case(
        "unknown method",
        ("a.gguf", "b.gguf", "-m", "dare"),
        ('--method: value "dare"', "did you mean dare_ties or dare_linear?"),
    ),
    Case("no base", (*TIES[:2], *TIES[4:]), ("works on what the models changed", "--base base.gguf")),
    Case("missing base", (*TIES[:3], "no.gguf", *TIES[4:]), ("no.gguf: there is no such file", "did you mean")),
    Case("adapters without base", ("--adapter", "x", "-m", "ties"), ("--adapter: needs a base", "--base base.gguf")),
    Case("name of the hub", ("org/model", "a.gguf", *LINEAR), ("nothing is downloaded", "hf download org/model")),
    Case(
        "wrong shapes",
        ("bad.gguf", *TIES),
        ("bad.gguf: the tensor blk.0.ffn_gate.weight has shape [96, 32], in base.gguf [64, 32]", "hint: only models"),
        model("bad.gguf", {"intermediate_size": 96}),
    ),
    Case(
        "other architecture",
        ("bad.gguf", *TIES),
        ("bad.gguf: the architecture is qwen2, that of base.gguf is llama", "hint: only models of one architecture"),
        model("bad.gguf", {"architecture": "qwen2"}),
    ),
    Case(
        "other angles",
        ("bad.gguf", *TIES),
        ("bad.gguf: llama.rope.freq_base is 500000.0, in base.gguf 100.0", "hint: the models compute differently"),
        model("bad.gguf", {"rope_theta": 500_000.0}),
    ),
    Case(
        "NaN",
        ("bad.gguf", *TIES),
        (f"bad.gguf: tensor {UP}", "row 3", "column 5", "nan", "hint:"),
        not_finite(np.nan),
    ),
    Case("infinity", ("bad.gguf", "a.gguf", *LINEAR), (f"bad.gguf: tensor {UP}", "inf", "hint:"), not_finite(np.inf)),
    Case("half a file", ("bad.gguf", *TIES), ("bad.gguf", "the file is truncated", "copy or download"), cut_at(0.7)),
    Case("part of a header", ("bad.gguf", *TIES), ("bad.gguf", "hint: the file is damaged"), cut_at(0.01)),
    Case(
        "no GGUF", ("m.bin", *TIES), ("m.bin: not a GGUF file",), lambda folder: (folder / "m.bin").write_text("words")
    ),
    Case(
        "adapter as a model",
        ("run/adapter.gguf", *TIES),
        ("run/adapter.gguf: this is an adapter", "--base BASE --adapter run/adapter.gguf"),
        trained_run,
    ),
    Case("folder of a run", ("run", *TIES), ("run: there is no config.json", "run/model.gguf"), trained_run),
    Case(
        "adapter of another model",
        ("a.gguf+lora.gguf", *TIES),
        ("lora.gguf: the adapter of blk.0.", "the model has [", "hint: name the model that it was trained on"),
        adapter_of_a_wide_model,
    ),
    Case(
        "no adapter",
        ("a.gguf+run", *TIES),
        ("run: there is no adapter_config.json and no adapter.gguf",),
        lambda folder: (folder / "run").mkdir(),
    ),
    Case("vocabulary", ("bad.gguf", *TIES), ("bad.gguf: the file has no tensors", "name the model"), vocabulary),
    Case("pickles", ("hf", *TIES), ("hf: the weights are pickles", "save the model as safetensors"), pickles),
    Case(
        "part of a folder",
        ("hf/model.safetensors", *TIES),
        ("this is a part of a model", "hint: give its folder: hf"),
        lambda folder: write_folder(folder / "hf", base_spec()),
    ),
    Case(
        "no tokenizer",
        ("hf", "a.gguf", *LINEAR),
        ("hf: the model has no tokenizer", "hint: put its tokenizer.json into the folder"),
        lambda folder: write_folder(folder / "hf", base_spec()),
    ),
    Case("other tokens", ("bad.gguf", *TIES), ("bad.gguf: the tokens differ", "--tokenizer union"), other_words()),
    Case("negative density", (*TIES, "--density", "-0.2"), ("--density: value -0.2; must be a number greater than 0",)),
    Case(
        "epsilon beyond the density",
        (*TIES[:4], "-m", "della", "--density", "0.2", "--set", "merge.epsilon=0.5"),
        ("merge.epsilon: probabilities from -0.3 to 0.7", "hint: set merge.epsilon below 0.2"),
    ),
    Case("t beyond the models", ("a.gguf", "b.gguf", "-m", "slerp", "--t", "2"), ("--t: is 2", "set it to 1 or less")),
    Case(
        "weights that cancel",
        ("a.gguf", "b.gguf", *LINEAR, "--weight", "1", "--weight", "-1"),
        ("--weight: the weights for token_embd.weight sum to 0", "hint:", "--no-normalize"),
    ),
    Case(
        "values beyond the type",
        ("a.gguf", "b.gguf", *LINEAR, "--weight", "1e8", "--no-normalize", "--type", "f16"),
        ("error: merged tensor ", "is too large for F16", "hint: merge with smaller weights", "--type f32"),
    ),
    Case("no distance", ("a.gguf", "b.gguf", "-m", "nearswap"), ("nearswap needs a distance", "--t 0.001")),
    Case("a parameter of others", (*TIES, "--t", "0.5"), ("--t: has no meaning for ties", "it is for slerp")),
    Case("type without meaning", (*TIES, "--type", "q4_9"), ('--type: value "q4_9"', "did you mean q4_1?")),
    Case("little memory", (*TIES, "--memory", "2MiB"), ("--memory: 2 MiB are too little", "hint: leave --memory out")),
    Case(
        "layers beyond the end",
        ("m.yaml",),
        ("merge.slices[0].sources[0].layers: there are no layers [1, 3] in a.gguf: it has 2", "the end is at most 2"),
        slices("[{sources: [{path: a.gguf, layers: [1, 3]}]}]"),
    ),
    Case(
        "layers backwards",
        ("m.yaml",),
        ("m.yaml:1:", "must be layers in their order, and [2, 1] has none"),
        slices("[{sources: [{path: a.gguf, layers: [2, 1]}]}]"),
    ),
    Case("slices in themselves", ("m.yaml",), ("m.yaml:1:", "an alias contains itself"), slices("&all [*all]")),
    Case(
        "slices of other lengths",
        ("m.yaml",),
        ("merge.slices[0].sources[1].layers: has 2 layers, and the first source of the slice 1", "the same number"),
        yaml(
            "merge: {method: slerp, slices: [{sources: [{path: a.gguf, layers: [0, 1]}, "
            "{path: b.gguf, layers: [0, 2]}]}]}"
        ),
    ),
    Case(
        "unknown key",
        ("m.yaml",),
        ("m.yaml:1:", "merge.densty: unknown key", "did you mean merge.density?"),
        yaml("merge: {method: ties, base: base.gguf, models: [a.gguf], densty: 0.5}"),
    ),
    Case(
        "key of mergekit without a meaning here",
        ("m.yaml",),
        ("m.yaml:1:", "chat_template: is not available", "remove it"),
        yaml("{merge_method: linear, models: [{model: a.gguf}, {model: b.gguf}], chat_template: auto}"),
    ),
    Case("an empty file", ("m.yaml",), ("m.yaml:1:1", "empty", "the sections merge and output"), yaml("")),
    Case("output is an input", (*TIES, "-o", "a.gguf", "--overwrite"), ("a.gguf: this is the file that is read", "-o")),
    Case(
        "output is there",
        (*TIES, "-o", "b.old"),
        ("b.old: the file is there already", "--overwrite"),
        lambda folder: (folder / "b.old").touch(),
    ),
    Case("output without a folder", (*TIES, "-o", "no/out.gguf"), ("the folder no does not exist", "mkdir -p no")),
    Case("output where nobody may write", (*TIES, "-o", "/proc/out.gguf"), ("/proc/out.gguf", "cannot be written")),
    Case(
        "folder where nobody may write",
        (*TIES, "-o", "/proc/out", "--format", "safetensors"),
        ("/proc/out", "cannot be written", "hint:"),
    ),
    Case("name of another format", (*TIES, "-o", "o.safetensors"), ("no name of a GGUF file", "-o o.gguf")),
    Case(
        "name of a file for a folder",
        (*TIES, "-o", "o.gguf", "--format", "safetensors"),
        ("o.gguf: a folder is written", "hint: -o o"),
    ),
]


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_family(folder, "a", "b")
    return folder


@pytest.fixture
def folder(family: Path, tmp_path: Path) -> Path:
    for path in family.iterdir():
        (tmp_path / path.name).symlink_to(path)
    return tmp_path


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_it_is_refused_in_one_message_and_nothing_is_written(case: Case, folder: Path) -> None:
    case.spoil(folder)
    before = tree(folder)
    output = () if "-o" in case.arguments else ("-o", "out.gguf")
    done = call("merge", *case.arguments, *output, cwd=folder)
    assert (done.code, done.out) == (2, ""), done.err
    assert done.err.startswith("error: ")
    assert "problems in the configuration" not in done.err
    assert "Traceback" not in done.err
    place = 0
    for words in case.says:
        place = done.err.find(words, place)
        assert place >= 0, f"{words!r} is not in its place in {done.err!r}"
    assert tree(folder) == before


def test_at_least_twenty_kinds_of_bad_input_are_tried() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 20


@pytest.mark.parametrize(("form", "name"), [("gguf", "out.gguf"), ("safetensors", "out")])
def test_a_disk_that_becomes_full_is_said_and_nothing_is_left(form: str, name: str, folder: Path) -> None:
    before = tree(folder)
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (100_000, 100_000))
    done = entrenar("merge", *TIES, "-o", name, "--format", form, cwd=folder, preexec_fn=limit)
    assert done.code == 2
    assert f"error: {name}" in done.err
    assert "cannot be written: File too large" in done.err
    assert "hint:" in done.err
    assert tree(folder) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "words"), [(signal.SIGINT, "interrupted\n"), (signal.SIGTERM, "interrupted by SIGTERM\n")]
)
def test_an_interrupt_leaves_nothing_behind(number: signal.Signals, words: str, tmp_path: Path) -> None:
    write_wide(tmp_path / "m.gguf", layers=2, rows=2048, columns=512)
    shutil.copy(tmp_path / "m.gguf", tmp_path / "n.gguf")
    options = ["-o", "out.gguf", "--type", "q4_k_m", "--threads", "1"]
    assert_interrupt_leaves_nothing(number, words, tmp_path, "merge", "m.gguf", "n.gguf", *LINEAR, *options)
