"""Attention by a library: which calls it serves, in which launches, and that nothing is lost around them.

The library is `HostSdpa`, which reads addresses as cuDNN is documented to. What cuDNN makes of the same launches is in
`test_cuda_cudnn`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from entrenar_core.backend import cuda_document_attention, cuda_sdpa
from entrenar_core.backend.cuda import CudaBackend
from entrenar_core.backend.cuda_sdpa import AttentionSizes, packed_launches, positions_of_a_launch, refusal
from entrenar_core.backend.documents import Documents, HostLower
from entrenar_core.backend.parameters import AttentionParams
from tests.backend.agreement import TRUTH, assert_close
from tests.cuda_host import host_runtime
from tests.cuda_host.device_array import waits
from tests.cuda_host.host_sdpa import HostSdpa

NDArray = np.ndarray[Any, np.dtype[Any]]
needs_compiler = pytest.mark.skipif(not host_runtime.is_possible(), reason=host_runtime.NO_COMPILER)

HEADS, KV_HEADS, WIDTH = 4, 2, 8


def lower_of(*rows: list[int]) -> NDArray:
    """The first key that each query sees, of rows given by the lengths of their documents."""
    return np.array([[start for start, n in _placed(row) for _ in range(n)] for row in rows], np.int32)


def _placed(lengths: list[int]) -> list[tuple[int, int]]:
    return [(sum(lengths[:i]), n) for i, n in enumerate(lengths)]


PACKED = lower_of([17, 1, 40, 2, 20], [80], [1] * 30 + [50])
ROWS = lower_of([24], [24], [24])
PADDED = lower_of([20] + [1] * 12, [31, 1], [2] + [1] * 30)


def inputs(rng: np.random.Generator, lower: NDArray) -> list[NDArray]:
    """q, k, v and dout of numbers that bfloat16 can hold."""
    sizes = [(*lower.shape, heads, WIDTH) for heads in (HEADS, KV_HEADS, KV_HEADS, HEADS)]
    bits = [rng.standard_normal(size).astype(np.float32).view(np.uint32) & 0xFFFF0000 for size in sizes]
    return [each.view(np.float32) for each in bits]


def both_ways(backend: Any, arrays: list[NDArray], lower: NDArray, **params: Any) -> list[NDArray]:
    """Output, log-sum-exp and the three gradients, on the host."""
    known = AttentionParams(scale=0.6, host_lower=HostLower(lower), **params)
    q, k, v, dout = (backend.cast(backend.asarray(each), backend.compute_dtype) for each in arrays)
    there = backend.asarray(lower)
    out, lse = backend.attention(q, k, v, there, known)
    gradients = backend.attention_backward(dout, q, k, v, out, lse, there, known)
    return [backend.to_host(each) for each in (out, lse, *gradients)]


def backend_with(sdpa: Any, compute_dtype: str = "bfloat16", **more: Any) -> CudaBackend:
    return CudaBackend(host_runtime.HostRuntime(), compute_dtype, sdpa=sdpa, **more)


@needs_compiler
@pytest.mark.parametrize("positions", [64, 128, 1 << 14])
@pytest.mark.parametrize("lower", [PACKED, ROWS, PADDED], ids=["packed", "rows", "padded"])
def test_documents_get_the_attention_of_the_reference(
    lower: NDArray, positions: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_sdpa, "QUERY_ELEMENTS", positions * HEADS * WIDTH)
    backend, arrays = backend_with(HostSdpa()), inputs(rng, lower)
    found, truths = (both_ways(each, arrays, lower) for each in (backend, TRUTH))
    assert backend.attention_paths == {"host": 2}
    assert_close(found[1], truths[1], 1e-5, "the log-sum-exp")
    for each, truth in zip(found, truths, strict=True):
        assert_close(each, truth, 2**-6)


@needs_compiler
def test_a_library_reads_arrays_with_gaps_after_a_copy(rng: np.random.Generator) -> None:
    q, k, v, dout = inputs(rng, PACKED)
    joint = np.stack([k, v], axis=2)
    backend = backend_with(HostSdpa())
    there = [backend.cast(backend.asarray(each), backend.compute_dtype) for each in (q, joint, dout)]
    lower, params = backend.asarray(PACKED), AttentionParams(scale=0.6, host_lower=HostLower(PACKED))
    out, _ = backend.attention(there[0], there[1][:, :, 0], there[1][:, :, 1], lower, params)
    np.testing.assert_array_equal(backend.to_host(out), both_ways(backend, [q, k, v, dout], PACKED)[0])


@needs_compiler
def test_where_documents_are_goes_to_the_device_once_a_batch(rng: np.random.Generator) -> None:
    backend, arrays = backend_with(HostSdpa()), inputs(rng, PACKED)
    q, k, v, _ = (backend.cast(backend.asarray(each), backend.compute_dtype) for each in arrays)
    lower, params = backend.asarray(PACKED), AttentionParams(scale=0.6, host_lower=HostLower(PACKED))
    copies: list[Any] = []
    to_device = backend.runtime.to_device
    backend.runtime.to_device = lambda values: copies.append(values) or to_device(values)  # type: ignore[method-assign]
    before = waits["count"]
    for _ in range(3):
        backend.attention(q, k, v, lower, params)
    assert (len(copies), waits["count"]) == (2, before)
    del params
    backend.attention(q, k, v, lower, AttentionParams(scale=0.6, host_lower=HostLower(PACKED)))
    assert len(copies) == 4, "another batch"
    assert len(backend._library._known) <= 1, "what was known of the first one is forgotten"  # type: ignore[union-attr]


@needs_compiler
def test_what_the_library_does_not_serve_goes_another_way_and_is_counted(rng: np.random.Generator) -> None:
    backend, arrays = backend_with(HostSdpa(refused=frozenset([128]))), inputs(rng, PACKED)
    for found, truth in zip(both_ways(backend, arrays, PACKED), both_ways(TRUTH, arrays, PACKED), strict=True):
        assert_close(found, truth, 2**-6)
    both_ways(backend, arrays, PACKED, softcap=2.0)
    assert backend.attention_paths == {"blocked: sequences of 128": 2, "blocked: a soft cap": 2}


@needs_compiler
def test_a_launch_that_takes_much_scratch_goes_another_way(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_document_attention, "MOST_SCRATCH", 100)
    backend = backend_with(HostSdpa())  # takes 64 bytes, and 128 in backward
    both_ways(backend, inputs(rng, ROWS), ROWS)
    assert backend.attention_paths == {"host": 1, "blocked: scratch of more than 0 MiB": 1}


@needs_compiler
def test_a_forward_of_the_library_and_a_backward_in_blocks_fit_together(rng: np.random.Generator) -> None:
    backend, arrays = backend_with(HostSdpa()), inputs(rng, PACKED)
    q, k, v, dout = (backend.cast(backend.asarray(each), backend.compute_dtype) for each in arrays)
    lower, known = backend.asarray(PACKED), AttentionParams(scale=0.6, host_lower=HostLower(PACKED))
    out, lse = backend.attention(q, k, v, lower, known)
    unknown = AttentionParams(scale=0.6)
    gradients = backend.attention_backward(dout, q, k, v, out, lse, lower, unknown)
    assert backend.attention_paths == {"host": 1, "blocked: a window, or unknown documents": 1}
    for found, truth in zip(gradients, both_ways(TRUTH, arrays, PACKED)[2:], strict=True):
        assert_close(backend.to_host(found), truth, 2**-6)


@needs_compiler
def test_a_reason_in_place_of_a_library_is_what_is_counted(rng: np.random.Generator) -> None:
    backend = backend_with("cuDNN's library is not found")
    both_ways(backend, inputs(rng, ROWS), ROWS)
    assert backend.attention_paths == {"blocked: cuDNN's library is not found": 2}


SIZES = AttentionSizes(batch=3, n_queries=80, n_keys=80, n_kv=8, group=4, width=128)


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        (None, {}),
        ("float32", {"element": "float32"}),
        ("a soft cap", {"softcap": 30.0}),
        ("tokens that came before", {"n_keys": 90, "q_offset": 10}),
        ("tokens that came before", {"n_keys": 90}),
        ("a window, or unknown documents", {"lower": None}),
        ("a window, or unknown documents", {"lower": np.maximum(0, np.arange(80) - 5) * np.ones((3, 1), int)}),
        ("heads of 100", {"width": 100}),
        ("heads of 192", {"width": 192}),
        (None, {"width": 256}),
        ("heads of 256", {"width": 256, "capability": 80}),
        ("heads of 256", {"width": 256, "capability": 120}),
        (None, {"capability": 120}),
        ("compute capability 7.5", {"capability": 75}),
        (None, {"deterministic": True}),
        ("packed documents in a deterministic run", {"deterministic": True, "capability": 89}),
        (None, {"deterministic": True, "capability": 89, "lower": np.zeros((3, 80), int)}),
    ],
)
def test_which_calls_a_library_serves(reason: str | None, changes: dict[str, Any]) -> None:
    given: dict[str, Any] = {"element": "bfloat16", "capability": 90, "deterministic": False, "lower": PACKED} | changes
    sizes = {name: given.pop(name, getattr(SIZES, name)) for name in ("batch", "n_queries", "n_keys", "n_kv", "width")}
    lower = given.pop("lower")
    known = None if lower is None else HostLower(lower)
    how = {name: given.pop(name) for name in ("softcap", "q_offset") if name in given}
    params = AttentionParams(scale=0.1, host_lower=known, **how)
    assert refusal(sizes=AttentionSizes(group=4, **sizes), params=params, **given) == reason


def test_launches_hold_every_document_of_two_tokens_once_and_waste_less_than_half() -> None:
    rng = np.random.default_rng(3)
    lengths = rng.integers(1, 700, 500)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    launches = list(packed_launches(Documents(starts, lengths), SIZES))
    there = np.concatenate([launch.starts[launch.lengths > 0] for launch in launches])
    np.testing.assert_array_equal(np.sort(there), starts[lengths > 1])
    for launch in launches:
        used = launch.lengths[launch.lengths > 0]
        assert (used <= launch.length).all() and (launch.length == 64 or (2 * used > launch.length).all())
        assert len(launch.starts) * launch.length == positions_of_a_launch(SIZES) == 8192
        assert (np.diff(launch.starts + launch.lengths) >= 0).all()


@pytest.mark.parametrize(
    ("heads", "width", "positions"), [(32, 128, 8192), (64, 128, 4096), (14, 64, 16384), (1, 8, 16384), (2048, 256, 64)]
)
def test_a_launch_is_about_as_large_for_every_model(heads: int, width: int, positions: int) -> None:
    assert positions_of_a_launch(AttentionSizes(1, 9, 9, heads, 1, width)) == positions


def test_launches_of_a_deterministic_run_are_smaller() -> None:
    assert positions_of_a_launch(SIZES, deterministic=True) == 2048


def test_a_document_longer_than_a_launch_goes_alone() -> None:
    (launch,) = packed_launches(Documents(np.array([5]), np.array([40_000])), SIZES)
    assert (launch.length, launch.starts.tolist()) == (65536, [5])
