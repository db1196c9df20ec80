"""Every kernel file compiles for the GPUs that are promised, by NVIDIA's compiler, which needs no GPU."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from entrenar_core.backend.cuda_compile import CompileError, architecture_of, compile_kernels, kept_kernels
from entrenar_core.backend.cuda_source import ELEMENT_NAMES, kernel_file, kernel_file_names, with_header

pytestmark = pytest.mark.nvrtc

ARCHITECTURES = ("sm_80", "sm_90", "sm_120")
_PTXAS = re.compile(
    r"Compiling entry function '(\w+)'.*?(\d+) bytes spill stores, \d+ bytes spill loads.*?Used (\d+) registers", re.S
)


def elements_of(file: str) -> list[str]:
    """The types that a file is compiled for: both, unless no array of its kernels is of either."""
    uses_element = any(each.ctype == "T" for kernel in kernel_file(file).signatures.values() for each in kernel)
    return list(ELEMENT_NAMES) if uses_element else ["float32"]


def cases() -> Iterator[Any]:
    """Every file on every architecture; bfloat16 on one by default, and on the others where slow tests run too."""
    for file in kernel_file_names():
        for element in elements_of(file):
            for architecture in ARCHITECTURES:
                is_slow = element == "bfloat16" and architecture != "sm_90"
                yield pytest.param(file, element, architecture, marks=[pytest.mark.slow] if is_slow else [])


EMPTY = 'extern "C" __global__ void nothing(T* x) {}\n'


@pytest.fixture(scope="module", autouse=True)
def nvrtc() -> Any:
    """NVIDIA's compiler as CuPy calls it."""
    try:
        from cupy_backends.cuda.libs import nvrtc

        nvrtc.getVersion()
    except (ImportError, RuntimeError):
        pytest.skip("CUDA kernels are compiled where CuPy and NVRTC are (pip install 'entrenar[nvrtc]')")
    return nvrtc


@pytest.mark.parametrize(("file", "element", "architecture"), list(cases()))
def test_a_kernel_file_compiles_without_a_warning_and_its_kernels_keep_to_registers(
    file: str, element: str, architecture: str
) -> None:
    code = compile_kernels(kernel_file(file), element, architecture, ["--ptxas-options=-v"])
    assert "warning" not in code.log, code.log
    spilled = {name: (int(spills), int(registers)) for name, spills, registers in _PTXAS.findall(code.log)}
    assert spilled.keys() == kernel_file(file).signatures.keys()
    assert not any(spills for spills, _ in spilled.values()), spilled


@pytest.mark.parametrize("file", [name for name in kernel_file_names() if kernel_file(name).is_unfused])
def test_a_kernel_with_the_bits_of_the_cpu_fuses_nothing_and_rounds_as_it_does(file: str) -> None:
    code = compile_kernels(kernel_file(file), "float32", "compute_90").image.decode()
    assert not re.findall(r"\bfma\.|\b(?:add|sub|mul)\.f32|\.ftz|\.approx|\bdiv\.full", code)


def test_other_kernels_may_fuse() -> None:
    assert "fma.rn.f32" in compile_kernels(kernel_file("softmax"), "float32", "compute_90").image.decode()


def test_an_error_comes_with_the_log_and_the_line_of_the_kernel_file() -> None:
    with pytest.raises(CompileError, match=r'bad.cu for bfloat16 on sm_90: (?s:.*)bad.cu\(2\): error: .*"wrong"'):
        compile_kernels(with_header("bad", EMPTY + "int x = wrong;\n"), "bfloat16", "sm_90")


def test_a_warning_is_in_the_log() -> None:
    untidy = with_header("untidy", EMPTY.replace("{}", "{ int unused; }"))
    assert "untidy.cu(1): warning" in compile_kernels(untidy, "float32", "sm_90").log


def test_a_gpu_gets_its_own_architecture_and_a_newer_one_what_its_driver_can_compile_on(nvrtc: Any) -> None:
    newest = max(nvrtc.getSupportedArchs())
    assert (architecture_of(80), architecture_of(120)) == ("sm_80", "sm_120")
    assert architecture_of(newest + 1) == f"compute_{newest}"
    code = compile_kernels(with_header("empty", EMPTY), "float32", architecture_of(newest + 1))
    assert f".target sm_{newest}".encode() in code.image


def test_machine_code_is_kept_by_text_element_and_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    empty, other = with_header("empty", EMPTY), with_header("empty", EMPTY.replace("nothing", "something"))
    images = [
        kept_kernels(empty, "float32", "sm_90"),
        kept_kernels(empty, "bfloat16", "sm_90"),
        kept_kernels(empty, "float32", "sm_80"),
        kept_kernels(other, "float32", "sm_90"),
    ]
    monkeypatch.setattr("entrenar_core.backend.cuda_compile.compile_kernels", None)  # nobody compiles again
    assert kept_kernels(empty, "float32", "sm_90") == images[0]
    assert kept_kernels(other, "float32", "sm_90") == images[3]
    assert len(list((tmp_path / "entrenar" / "cuda-kernels").iterdir())) == 4
