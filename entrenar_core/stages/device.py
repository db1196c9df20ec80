"""What a stage computes on: the backend for its work, and a line about why it is that one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from entrenar_core.backend.base import Backend
from entrenar_core.backend.gpu_worth import Work
from entrenar_core.backend.select import Device, DeviceChoice, DeviceWish, choose_device, make_backend
from entrenar_core.events import Notice, Reporter
from entrenar_core.gguf.reader import GGUFFile


def open_backend(wish: DeviceWish, work: Work, reporter: Reporter) -> Backend:
    """The backend that `work` is done on; who opens it closes it.

    Raises:
        MissingExtraError, DeviceError: a GPU that was asked for cannot be used.
    """
    choice = choose_device(wish, work)
    backend = make_backend(choice, wish)
    if line := described(choice):
        reporter.emit(Notice("info", line))
    return backend


def require_device(wish: DeviceWish) -> None:
    """Refuse what this machine cannot do before anything takes time; what may compute on the CPU always can.

    Raises:
        MissingExtraError, DeviceError: see `open_backend`.
    """
    if wish.device == "cuda" or wish.compute_dtype == "bfloat16":
        choose_device(wish)


def described(choice: DeviceChoice) -> str:
    """A line on what computes and why; empty where that needs no word."""
    return f"{choice.reason} (in {choice.compute_dtype})" if choice.device == "cuda" else choice.reason


def measuring_wish(device: Device, threads: int | None) -> DeviceWish:
    """What a stage wants whose result is a measurement: float32 on a GPU too, for what is told apart by it (types that
    a model is rounded to, say) differs by less than bfloat16 rounds."""
    return DeviceWish(device, threads, compute_dtype="float32")


def writing_work(file: GGUFFile, n_prompt: int, n_written: int) -> Work:
    """Of a model that goes on from a prompt."""
    return Work("generate", *model_sizes(file), n_prompt, n_written)


def calibration_work(file: GGUFFile, n_tokens: int) -> Work:
    """Of a model that its inputs are measured in."""
    return Work("calibrate", *model_sizes(file), n_tokens)


def model_sizes(file: GGUFFile) -> tuple[int, int]:
    """Parameters, and bytes of the files."""
    return sum(info.n_values for info in file.tensors.values()), total_size(file.paths)


def total_size(paths: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in paths)
