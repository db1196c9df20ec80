"""Stand-ins for CuPy's arrays: what they refuse, and what they count as waiting for the device."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.cuda_host.device_array import DeviceArray, HostModule, waits

HOST = np.arange(6, dtype=np.float32).reshape(2, 3)
xp = HostModule()


@pytest.fixture
def array() -> DeviceArray:
    return DeviceArray(HOST.copy())


@pytest.fixture
def narrow() -> DeviceArray:
    return DeviceArray(HOST.astype(ml_dtypes.bfloat16))


def assign(array: Any, index: Any, value: Any) -> None:
    array[index] = value


@pytest.mark.parametrize(
    "use",
    [
        lambda a: a + HOST,
        lambda a: HOST + a,
        lambda a: operator.imul(a, HOST),
        lambda a: a == HOST,
        lambda a: a[HOST[0].astype(int)],
        lambda a: assign(a, 0, HOST[0]),
        lambda a: assign(a, HOST > 0, 0),
        lambda a: xp.add(a, HOST),
        lambda a: xp.concatenate([a, HOST]),
        lambda a: xp.where(HOST > 0, a, a),
        lambda a: np.add(a, 1),
        np.asarray,
        lambda a: np.concatenate([a, a]),
        lambda a: HOST.__setitem__(..., a),
        list,
    ],
)
def test_arrays_of_the_device_and_of_the_host_do_not_mix(array: DeviceArray, use: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError):
        use(array)


@pytest.mark.parametrize("name", ["ctypes", "flat", "base", "__array_interface__", "__cuda_array_interface__"])
def test_the_memory_behind_an_array_is_not_given_away(array: DeviceArray, name: str) -> None:
    with pytest.raises(AttributeError):
        getattr(array, name)


@pytest.mark.parametrize(
    "use",
    [
        lambda a: a + a,
        lambda a: a * 2,
        lambda a: 2.0 - a,
        lambda a: -a,
        lambda a: operator.iadd(a, a),
        lambda a: a.sum(),
        lambda a: a.max(axis=0),
        xp.sqrt,
        lambda a: xp.matmul(a, a.T),
        lambda a: xp.where(a > 0, a, a),
    ],
)
def test_operators_do_not_compute_in_bfloat16(narrow: DeviceArray, use: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match="bfloat16"):
        use(narrow)


def test_bfloat16_may_be_moved(narrow: DeviceArray) -> None:
    moved = [narrow.T, narrow[0], narrow.reshape(6), xp.concatenate([narrow, narrow]), xp.ascontiguousarray(narrow.T)]
    assert all(isinstance(each, DeviceArray) and each.dtype == ml_dtypes.bfloat16 for each in moved)
    narrow[0] = narrow[1]
    narrow.fill(0)


@pytest.mark.parametrize(
    "use",
    [
        lambda a: a[0, 0].item(),
        lambda a: a.tolist(),
        lambda a: float(a.sum()),
        lambda a: int(a[0, 0]),
        lambda a: bool(a[0, 0]),
        lambda a: a[a > 2],
        lambda a: assign(a, a > 2, 0),
        xp.nonzero,
        xp.unique,
        lambda a: a.nonzero(),
    ],
)
def test_what_needs_the_value_waits(array: DeviceArray, use: Callable[[Any], Any]) -> None:
    before = waits["count"]
    use(array)
    assert waits["count"] == before + 1


def test_what_only_queues_work_does_not_wait(array: DeviceArray) -> None:
    before = waits["count"]
    array += 1
    array[1:] = array[:1] * 2
    (array.sum(axis=0) > 3).any()
    xp.where(array > 0, array, 0).reshape(-1)[(array > 3).astype(np.int32).reshape(-1)]
    assert len(array) == 2
    assert array.shape == (2, 3)
    assert waits["count"] == before


def test_results_are_arrays_of_the_device(array: DeviceArray) -> None:
    results = [array + 1, array.sum(), array[0, 0], array.T, array.astype(np.int32), xp.exp(array), xp.zeros(3)]
    assert all(isinstance(each, DeviceArray) for each in results)
    total = xp.add(array, array, out=array)
    assert total is array
    np.testing.assert_array_equal(array.host, 2 * HOST)


def test_an_array_made_from_one_of_the_host_is_a_copy() -> None:
    host = HOST.copy()
    array = xp.asarray(host)
    host[0, 0] = 99
    assert array.host[0, 0] == 0
