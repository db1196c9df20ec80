"""Stages compute where they are asked to, say so, and reckon their work from sizes. The GPU here is the host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from entrenar_core.backend.cuda import CudaBackend
from entrenar_core.backend.cuda_probe import Gpu
from entrenar_core.backend.gpu_worth import Work
from entrenar_core.backend.select import DeviceWish
from entrenar_core.config.quantize import Calibration
from entrenar_core.errors import DeviceError, EntrenarError, MissingExtraError
from entrenar_core.events import Notice, RunStarted, Step
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.stages import dry_run
from entrenar_core.stages.calibrate import run_calibrate
from entrenar_core.stages.device import open_backend, writing_work
from entrenar_core.stages.evaluate import run_evaluation
from entrenar_core.stages.evaluation_settings import EvaluationSettings
from entrenar_core.stages.generate import SamplingSettings, run_generate
from entrenar_core.stages.text_work import reading_work
from entrenar_core.stages.train import run_training
from tests.cuda_host import fake_cupy, host_runtime
from tests.cuda_host.fake_driver import remove_cupy
from tests.stages.tiny_base import config, train, write_base, write_data
from tests.train.tiny_model import Listener

SELECT = "entrenar_core.backend.select"
LARGE = Work("evaluate", 10**9, 2 * 10**9, 10**6)
GPU = Gpu("Test GPU", (9, 0), 80 * 2**30)

needs_host = pytest.mark.skipif(not host_runtime.is_possible(), reason=host_runtime.NO_COMPILER)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_base(tmp_path / "base.gguf")
    write_data(tmp_path)
    return tmp_path


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cupy.install(monkeypatch)
    monkeypatch.setattr(f"{SELECT}.driver_cuda_version", lambda: 13020)
    monkeypatch.setattr(f"{SELECT}.find_gpu", lambda: GPU)


@pytest.fixture
def no_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    remove_cupy(monkeypatch)
    monkeypatch.setattr(f"{SELECT}.driver_cuda_version", lambda: None)


def notices(listener: Listener) -> list[str]:
    return [event.message for event in listener.of(Notice) if event.message.startswith("computing on")]


@needs_host
@pytest.mark.usefixtures("gpu")
def test_the_device_is_said_with_the_type_it_computes_in() -> None:
    listener = Listener()
    backend = open_backend(DeviceWish(), LARGE, listener)
    assert (backend.name, backend.compute_dtype.name) == ("cuda", "bfloat16")
    assert notices(listener)[0].startswith("computing on Test GPU (80 GiB, compute capability 9.0): a CPU would take")
    assert notices(listener)[0].endswith("copying the model (in bfloat16)")
    backend.close()


@pytest.mark.usefixtures("no_cupy")
def test_on_a_machine_without_a_gpu_nothing_is_said(folder: Path) -> None:
    _, listener = train(folder)
    assert notices(listener) == [] and listener.of(RunStarted)[0].device == "cpu"


@pytest.mark.usefixtures("no_cupy")
def test_a_gpu_that_is_not_there_ends_each_stage_before_it_writes(folder: Path) -> None:
    model, texts = folder / "base.gguf", str(folder / "train.parquet")
    greedy = SamplingSettings(max_tokens=2, temperature=0.0, top_p=1.0, seed=0)
    stages = {
        "train": lambda: train(folder, training={"device": "cuda"}),
        "dry run": lambda: dry_run.plan_run(config(folder, training={"device": "cuda"}), Listener()),
        "evaluate": lambda: run_evaluation(
            [model], texts, settings=EvaluationSettings(device="cuda"), reporter=Listener()
        ),
        "generate": lambda: run_generate(
            model, "Ada", adapter_path=None, settings=greedy, threads=1, reporter=Listener(), device="cuda"
        ),
        "calibrate": lambda: run_calibrate(
            model,
            folder / "imatrix.gguf",
            Calibration(data=texts, rows=1),
            with_output=False,
            threads=1,
            reporter=Listener(),
            device="cuda",
        ),
    }
    for name, run in stages.items():
        with pytest.raises(MissingExtraError, match="needs CuPy") as failure:
            run()
        assert "entrenar[cuda13]" in (failure.value.hint or ""), name
    assert sorted(path.name for path in folder.iterdir()) == ["base.gguf", "config.yaml", "train.parquet"]


@pytest.mark.usefixtures("no_cupy")
def test_a_gpu_that_is_not_there_is_found_out_before_model_and_data_are_opened(tmp_path: Path) -> None:
    for training in ({"device": "cuda"}, {"compute_dtype": "bfloat16"}):
        with pytest.raises(MissingExtraError, match="needs CuPy"):
            train(tmp_path, training=training)  # there are no files


@pytest.mark.usefixtures("no_cupy")
def test_bfloat16_without_a_gpu_is_refused_also_where_the_device_is_left_open(folder: Path) -> None:
    with pytest.raises(EntrenarError, match="needs CuPy"):
        train(folder, training={"compute_dtype": "bfloat16"})


def test_a_gpu_without_room_for_its_context_is_one_message(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise RuntimeError("cudaErrorMemoryAllocation: out of memory")

    monkeypatch.setattr(f"{SELECT}.find_gpu", lambda: GPU)
    monkeypatch.setattr("entrenar_core.backend.cuda_cupy.CupyRuntime", full)
    with pytest.raises(DeviceError, match="the GPU cannot be started: cudaErrorMemoryAllocation"):
        train(folder, training={"device": "cuda"})


def test_work_is_reckoned_from_the_files(folder: Path) -> None:
    text = folder / "text.txt"
    text.write_text("x" * 4000)
    with GGUFFile.open(folder / "base.gguf") as file:
        parameters = sum(info.n_values for info in file.tensors.values())
        n_bytes = (folder / "base.gguf").stat().st_size
        assert reading_work(file, str(text)) == Work("evaluate", parameters, n_bytes, 1000)
        assert reading_work(file, str(text), at_most=512).tokens == 512
        rows = (folder / "train.parquet").stat().st_size // 4
        assert reading_work(file, str(folder / "train.parquet")).tokens == rows
        assert writing_work(file, 5, 100) == Work("generate", parameters, n_bytes, 5, written=100)


@needs_host
@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "sections",
    [{}, {"lora": None}, {"quantize": {"bits": 4}}, {"lora": None, "quantize": {"bits": 8, "stage": "qat"}}],
    ids=["LoRA", "all weights", "QLoRA", "QAT"],
)
def test_a_run_on_the_gpu_learns_as_on_the_cpu(folder: Path, sections: dict[str, Any], dtype: str) -> None:
    losses = []
    for name, training in (("cpu", {}), ("cuda", {"compute_dtype": dtype})):
        place = {"device": name, "output_dir": str(folder / name), **training}
        _, listener = train(folder, training=place, **sections)
        assert listener.of(RunStarted)[0].device == name
        losses.append([event.loss for event in listener.of(Step)])
    assert losses[1] == pytest.approx(losses[0], abs=1e-4 if dtype == "float32" else 3e-2)


@needs_host
@pytest.mark.usefixtures("gpu")
def test_a_run_that_goes_on_from_a_gpu_on_the_cpu_says_what_changed(folder: Path) -> None:
    train(folder, training={"device": "cuda"})
    listener = Listener()
    run_training(config(folder, training={"device": "cpu", "max_steps": 4}), resume_from="auto", reporter=listener)
    (said,) = [event.message for event in listener.of(Notice) if "goes on elsewhere" in event.message]
    for change in ("backend cuda -> cpu", "compute_dtype bfloat16 -> none", "gpu Test GPU -> none"):
        assert change in said


@needs_host
@pytest.mark.usefixtures("gpu")
def test_a_measurement_is_made_in_float32_on_either_device(folder: Path) -> None:
    found = []
    for device in ("cpu", "cuda"):
        settings, listener = EvaluationSettings(device=device), Listener()  # type: ignore[arg-type]
        texts = str(folder / "train.parquet")
        report = run_evaluation([folder / "base.gguf"], texts, settings=settings, reporter=listener)
        found.append(report.models[0].result.figures["loss"])
    assert found[1] == pytest.approx(found[0], rel=1e-6)
    assert notices(listener) == ["computing on Test GPU (80 GiB, compute capability 9.0) (in float32)"]


@needs_host
@pytest.mark.usefixtures("gpu")
def test_a_plan_says_what_the_run_computes_on(folder: Path) -> None:
    def device_of(**training: str) -> str:
        return dry_run.plan_run(config(folder, training=training), Listener()).device

    assert device_of(device="cuda") == "computing on Test GPU (80 GiB, compute capability 9.0) (in bfloat16)"
    assert device_of(device="cpu") == ""
    assert device_of().startswith("computing on the CPU: a CPU would take about 0.0 seconds, less than 5 times")


@needs_host
@pytest.mark.usefixtures("gpu")
def test_the_plan_has_the_memory_of_the_gpu_and_of_the_host_apart(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_gpu, on_cpu = (
        dry_run.plan_run(config(folder, training={"device": device}), Listener()) for device in ("cuda", "cpu")
    )
    assert on_cpu.device_memory is None
    assert on_gpu.device_memory is not None and on_gpu.device_memory.verdict.fits
    there, here = ({name for name, _ in one.memory.parts} for one in (on_gpu.device_memory, on_gpu))
    assert {"CUDA", "weights", "optimizer state", "gradients", "activations"} <= there
    assert not here & {"weights", "optimizer state", "gradients", "activations"}
    assert on_gpu.time is not None
    monkeypatch.setattr(CudaBackend, "free_device_bytes", lambda self: 1 << 20)
    too_large = dry_run.plan_run(config(folder, training={"device": "cuda"}), Listener())
    assert too_large.device_memory is not None and not too_large.device_memory.verdict.fits
    assert too_large.time is None
    assert any("does not fit" in warning for warning in too_large.warnings)
