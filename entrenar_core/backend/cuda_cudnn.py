"""cuDNN's attention, through NVIDIA's front end: graphs that are built once a shape and run on addresses.

No array of another library is ever passed, as the front end would look for torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from entrenar_core.backend.cuda_sdpa import SdpaShape

OLDEST = 91800
"""cuDNN 9.18, which the table of `cuda_sdpa.refusal` is of."""

_INPUTS = {False: ("q", "k", "v"), True: ("q", "k", "v", "out", "dout")}
_OUTPUTS = {False: ("out",), True: ("dq", "dk", "dv")}
_OF_KEYS = frozenset(["k", "v", "dk", "dv"])


@dataclass(frozen=True)
class _Plan:
    """A graph that can run: its tensors by the names of `Sdpa`."""

    graph: Any
    tensors: dict[str, Any]
    workspace_bytes: int


class Cudnn:
    """`Sdpa` by cuDNN.

    Args:
        module: the front end, `cudnn`.
        capability: the device's compute capability, 90 for 9.0.
        handle: of cuDNN, on the stream that the arrays are computed on.
        device: how a graph is told of a device that is not there, which lets it be built but not run.
    """

    name = "cudnn"

    def __init__(self, module: Any, capability: int, handle: Any, device: Mapping[str, Any] | None = None) -> None:
        self.capability = capability
        self._module = module
        self._handle = handle
        self._device = {} if device is None else dict(device)
        self._plans: dict[tuple[SdpaShape, bool], _Plan | str] = {}

    def refusal(self, shape: SdpaShape, backward: bool) -> str | None:
        plan = self._plan(shape, backward)
        return plan if isinstance(plan, str) else None

    def workspace_bytes(self, shape: SdpaShape, backward: bool) -> int:
        return self._buildable(shape, backward).workspace_bytes

    def run(self, shape: SdpaShape, backward: bool, addresses: Mapping[str, int], workspace: int) -> None:
        plan = self._buildable(shape, backward)
        given = {tensor: addresses[name] for name, tensor in plan.tensors.items()}
        plan.graph.execute(given, workspace, handle=self._handle)

    def close(self) -> None:
        self._plans.clear()
        if self._handle is not None:
            self._module.destroy_handle(self._handle)
            self._handle = None

    def _buildable(self, shape: SdpaShape, backward: bool) -> _Plan:
        plan = self._plan(shape, backward)
        if isinstance(plan, str):
            raise ValueError(f"cuDNN has no attention for {shape}: {plan}")
        return plan

    def _plan(self, shape: SdpaShape, backward: bool) -> _Plan | str:
        key = (shape, backward)
        if key not in self._plans:
            try:
                self._plans[key] = self._build(shape, backward)
            except self._module.cudnnGraphNotSupportedError as error:
                self._plans[key] = " ".join(str(error).split())
        return self._plans[key]

    def _build(self, shape: SdpaShape, backward: bool) -> _Plan:
        types, mode = self._module.data_type, self._module.heur_mode
        graph = self._module.pygraph(
            io_data_type=types.BFLOAT16,
            intermediate_data_type=types.FLOAT,
            compute_data_type=types.FLOAT,
            handle=self._handle,
            **self._device,
        )
        tensors = self._tensors(graph, shape, backward)
        graph.validate()
        graph.build_operation_graph()
        graph.create_execution_plans([mode.A, mode.FALLBACK])
        graph.check_support()
        graph.build_plans()
        return _Plan(graph, tensors, graph.get_workspace_size())

    def _tensors(self, graph: Any, shape: SdpaShape, backward: bool) -> dict[str, Any]:
        """Add the attention to a graph: what it reads and writes, by name."""
        tensors = self._places(graph, shape)
        offsets = {name: tensors.get("kv_offsets" if name in _OF_KEYS else "q_offsets") for name in _NAMES}
        for name in _INPUTS[backward]:
            sizes = _sizes(shape, name)
            tensors[name] = graph.tensor(name=name, **sizes, ragged_offset=offsets[name])
        how = self._how(shape, tensors)
        if backward:
            tensors["stats"] = graph.tensor(name="stats", **_stats(shape), data_type=self._module.data_type.FLOAT)
            made = graph.sdpa_backward(
                q=tensors["q"],
                k=tensors["k"],
                v=tensors["v"],
                o=tensors["out"],
                dO=tensors["dout"],
                stats=tensors["stats"],
                use_deterministic_algorithm=shape.deterministic,
                **how,
            )
        else:
            out, stats = graph.sdpa(q=tensors["q"], k=tensors["k"], v=tensors["v"], generate_stats=True, **how)
            made, tensors["stats"] = (out,), stats
            place = _stats(shape)
            stats.set_output(True).set_data_type(self._module.data_type.FLOAT)
            stats.set_dim(place["dim"]).set_stride(place["stride"])
        for name, tensor in zip(_OUTPUTS[backward], made, strict=True):
            place = _sizes(shape, name)
            tensors[name] = tensor.set_output(True).set_dim(place["dim"]).set_stride(place["stride"])
            if shape.packed:
                tensor.set_ragged_offset(offsets[name])
        return tensors

    def _places(self, graph: Any, shape: SdpaShape) -> dict[str, Any]:
        """The tensors that say where packed sequences are."""
        if not shape.packed:
            return {}
        types, n = self._module.data_type, shape.n
        counts = {"lengths": (n, types.INT32), "q_offsets": (n + 1, types.INT64), "kv_offsets": (n + 1, types.INT64)}
        return {
            name: graph.tensor(name=name, dim=(count, 1, 1, 1), stride=(1, 1, 1, 1), data_type=dtype)
            for name, (count, dtype) in counts.items()
        }

    def _how(self, shape: SdpaShape, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """What forward and backward are told alike."""
        causal = {
            "attn_scale": shape.scale,
            "diagonal_alignment": self._module.diagonal_alignment.TOP_LEFT,
            "diagonal_band_right_bound": 0,
        }
        if not shape.packed:
            return causal
        lengths = tensors["lengths"]
        return causal | {"use_padding_mask": True, "seq_len_q": lengths, "seq_len_kv": lengths}


_NAMES = ("q", "k", "v", "out", "dout", "dq", "dk", "dv")


def _sizes(shape: SdpaShape, name: str) -> dict[str, tuple[int, ...]]:
    """Of an array of tokens [heads, width], as the front end orders them: (sequence, head, token, component)."""
    heads = shape.n_kv if name in _OF_KEYS else shape.n_heads
    token = heads * shape.width
    dim = (shape.n, heads, shape.length, shape.width)
    return {"dim": dim, "stride": (shape.length * token, shape.width, token, 1)}


def _stats(shape: SdpaShape) -> dict[str, tuple[int, ...]]:
    dim = (shape.n, shape.n_heads, shape.length, 1)
    return {"dim": dim, "stride": (shape.n_heads * shape.length, shape.length, 1, 1)}


def open_cudnn(capability: int, stream: int) -> Cudnn | str:
    """cuDNN on the current device, or why there is none.

    Args:
        capability: the device's compute capability, 90 for 9.0.
        stream: the address of the stream that arrays are computed on.
    """
    try:
        import cudnn
    except ImportError as error:
        return f"nvidia-cudnn-frontend cannot be imported ({error})"
    try:
        version = cudnn.backend_version()
    except RuntimeError as error:
        return f"cuDNN's library is not found ({error})"
    if version < OLDEST:
        return f"cuDNN {_written(version)} is older than {_written(OLDEST)}"
    try:
        handle = cudnn.create_handle()
        cudnn.set_stream(handle=handle, stream=stream)
    except RuntimeError as error:
        return f"cuDNN {_written(version)} does not start ({error})"
    return Cudnn(cudnn, capability, handle)


def _written(version: int) -> str:
    return f"{version // 10000}.{version // 100 % 100}.{version % 100}"
