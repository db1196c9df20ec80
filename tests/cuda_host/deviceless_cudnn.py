"""cuDNN builds its attention for GPUs that are not there: plans, compiled kernels included, that nobody can run.

cuDNN takes a description of a device in place of the device (cudnn-frontend, deviceless ahead-of-time compilation). Its
libraries only have to find a driver to link with: a stub stands in, which loads kernels without looking at them and
refuses to start any. As a program this reads questions from its input and writes answers, because libraries are found
by the environment that a process begins with.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from entrenar_core.backend.cuda_sdpa import SdpaShape

MISSING = "cuDNN's plans are built where it is (pip install nvidia-cudnn-frontend nvidia-cudnn-cu13 nvidia-cublas)"

_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
_GIVE_A_HANDLE = "cuLibraryLoadData cuLibraryGetKernel cuKernelGetFunction cuModuleLoadData cuModuleGetFunction"
_SUCCEED = "cuLibraryUnload cuKernelSetAttribute cuModuleUnload"
_REFUSE = (
    "cuCtxGetCurrent cuCtxGetLimit cuCtxPopCurrent cuCtxPushCurrent cuDeviceGet cuDeviceGetCount"
    " cuLaunchCooperativeKernel cuLaunchKernel cuLaunchKernelEx cuLibraryLoadFromFile cuLinkAddData cuLinkComplete"
    " cuLinkCreate cuLinkDestroy cuOccupancyMaxPotentialClusterSize cuStreamGetCtx cuTensorMapEncodeIm2col"
    " cuTensorMapEncodeTiled"
)

_EVERY_GPU = {
    "maxGridSize": [2147483647, 65535, 65535],
    "maxBlockSize": [1024, 1024, 64],
    "regsPerBlock": 65536,
    "warpSize": 32,
    "maxSharedMemoryPerBlock": 49152,
    "reservedSharedMemoryPerBlock": 1024,
    "oversizedSharedMemoryPerBlock": 0,
    "maxRegistersPerSM": 65536,
    "maxThreadsPerBlock": 1024,
    "isTccDriver": 0,
    "supportCoopLaunch": 1,
    "cudaDeviceId": 0,
    "driverVer": 13000,
    "smCountOrigin": 0,
    "pciDeviceId": 0,
}
_OF_A_GPU = (
    "deviceName",
    "deviceVer",
    "multiProcessorCount",
    "maxSharedMemoryPerBlockOptin",
    "totalGlobalMem",
    "l2CacheSize",
    "maxCtasPerSM",
    "maxThreadsPerSM",
    "memoryBusWidth",
    "smClockRateKHz",
    "memClockRateKHz",
)
GPUS = {
    80: ("NVIDIA A100-SXM4-80GB", 800, 108, 166912, 80 << 30, 40 << 20, 32, 2048, 5120, 1410000, 1593000),
    89: ("NVIDIA GeForce RTX 4090", 890, 128, 101376, 24 << 30, 72 << 20, 24, 1536, 384, 2520000, 10501000),
    90: ("NVIDIA H200", 900, 132, 232448, 141 << 30, 60 << 20, 32, 2048, 6144, 1980000, 3201000),
    100: ("NVIDIA B200", 1000, 148, 232448, 178 << 30, 126 << 20, 32, 2048, 8192, 1965000, 3996000),
    120: ("NVIDIA GeForce RTX 5090", 1200, 170, 101376, 32 << 30, 96 << 20, 24, 1536, 512, 2407000, 14001000),
}
"""One GPU of each compute capability, as cuDNN describes devices."""


def is_possible() -> bool:
    """Whether this environment has cuDNN, its front end and what it links with."""
    return find_spec("cudnn") is not None and bool(_libraries("cudnn/lib")) and bool(_libraries("cu13/lib"))


def answers(questions: Sequence[tuple[int, SdpaShape, bool]], folder: Path) -> list[tuple[str | None, int]]:
    """For each compute capability, shape and whether backward: why cuDNN refuses it, or None; and its scratch in bytes.

    The stub of a driver is compiled into `folder`.
    """
    _make_driver(folder)
    paths = os.pathsep.join([str(folder), *_libraries("cu13/lib")])
    asked = [(capability, asdict(shape), backward) for capability, shape, backward in questions]
    ran = subprocess.run(
        [sys.executable, "-m", __name__],
        input=json.dumps(asked),
        env=os.environ | {"LD_LIBRARY_PATH": paths, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    return [(reason, n_bytes) for reason, n_bytes in json.loads(ran.stdout.splitlines()[-1])]


def _libraries(folder: str) -> list[str]:
    spec = find_spec("nvidia")
    places = [] if spec is None or spec.submodule_search_locations is None else spec.submodule_search_locations
    return [str(Path(place) / folder) for place in places if (Path(place) / folder).is_dir()]


def _make_driver(folder: Path) -> None:
    functions = [f"int {name}(void** made) {{ *made = (void*)16; return 0; }}" for name in _GIVE_A_HANDLE.split()]
    functions += [f"int {name}(void) {{ return 0; }}" for name in _SUCCEED.split()]
    functions += [f"int {name}(void) {{ return {_NO_DEVICE}; }}" for name in _REFUSE.split()]
    functions += [f'int {name}(int e, const char** s) {{ *s = "no driver"; return 0; }}' for name in _NAMES_OF_ERRORS]
    functions += ["int cuDriverGetVersion(int* v) { *v = 13000; return 0; }"]
    functions += ["int cuKernelGetAttribute(int* v) { *v = 0; return 0; }"]
    source = folder / "driver.c"
    source.write_text("\n".join(functions) + "\n")
    command = ["gcc", "-shared", "-fPIC", "-w", "-Wl,-soname,libcuda.so.1", "-o", str(folder / "libcuda.so.1")]
    subprocess.run([*command, str(source)], check=True)


_NAMES_OF_ERRORS = ("cuGetErrorString", "cuGetErrorName")


def _answer(asked: Sequence[tuple[int, dict[str, Any], bool]]) -> list[tuple[str | None, int]]:
    import cudnn

    from entrenar_core.backend.cuda_cudnn import Cudnn

    libraries = {}
    for capability in {capability for capability, _, _ in asked}:
        gpu = dict(zip(_OF_A_GPU, GPUS[capability], strict=True))
        device = {
            "device_property": cudnn.create_device_properties(json.dumps(_EVERY_GPU | gpu)),
            "sm_version": capability,
            "sm_count": gpu["multiProcessorCount"],
        }
        libraries[capability] = Cudnn(cudnn, capability, None, device)
    found = []
    for capability, shape, backward in asked:
        library, one = libraries[capability], SdpaShape(**shape)
        reason = library.refusal(one, backward)
        found.append((reason, 0 if reason is not None else library.workspace_bytes(one, backward)))
    return found


if __name__ == "__main__":
    print(json.dumps(_answer(json.load(sys.stdin))))
