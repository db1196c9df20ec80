"""The merges in which ours is held against mergekit, as files of mergekit over the models of mergekit_pico.

Parameters of a model stand behind its name; a gradient is a list of numbers, a filter a part of a tensor's name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Config = dict[str, Any]
Models = Mapping[str, Mapping[str, Any]]

LAYERS = 4
"""Of each model."""

_AT_THE_CUTOFF = 4
"""Variances that differ in the last digit only change places at sce's cutoff."""


@dataclass(frozen=True)
class Case:
    """One merge.

    Attributes:
        name: what is special about it.
        config: mergekit's YAML.
        is_random: masks are drawn, so that only statistics agree.
        left_out: parts of the names of tensors that are not compared; `note` says why.
        swaps: how many entries of a tensor may be chosen otherwise, because what they are chosen by is rounded
            otherwise.
        note: where mergekit does something else on purpose or by mistake.
    """

    name: str
    config: Config
    is_random: bool = False
    left_out: tuple[str, ...] = ()
    swaps: int = 0
    note: str = ""


def filtered(default: Any, **by_part: Any) -> list[Config]:
    """A value for the tensors with each part in their names, and one for the others."""
    return [*({"filter": part, "value": value} for part, value in by_part.items()), {"value": default}]


def shown(setting: Any) -> str:
    """A setting in the name of a case."""
    if not isinstance(setting, list):
        return str(setting)
    return "by name" if isinstance(setting[0], dict) else "along the layers"


def merge(method: str, models: Models, base: str | None = None, prefix: str = "", **parameters: Any) -> Config:
    """A merge of whole models; `lambda_` is lambda."""
    config: Config = {"merge_method": method, "dtype": "float32"}
    if base is not None:
        config["base_model"] = f"./{prefix}{base}"
    config["models"] = [_model(f"{prefix}{name}", own) for name, own in models.items()]
    if parameters:
        config["parameters"] = {name.rstrip("_"): value for name, value in parameters.items()}
    return config


def sliced(method: str, slices: Sequence[Config], base: str | None = None, **parameters: Any) -> Config:
    """A merge of layers; see `part`."""
    config = merge(method, {}, base, **parameters)
    del config["models"]
    return config | {"slices": list(slices)}


def part(sources: Sequence[tuple[str, int, int]], own: Sequence[Config] = (), **parameters: Any) -> Config:
    """A slice: models with their first layer and the one after the last; `own`: parameters of each."""
    written = [_model(name, {}) | {"layer_range": [first, end]} for name, first, end in sources]
    for source, values in zip(written, own, strict=False):
        source["parameters"] = dict(values)
    return {"sources": written} | ({"parameters": parameters} if parameters else {})


def _model(name: str, own: Mapping[str, Any]) -> Config:
    return {"model": f"./{name}"} | ({"parameters": dict(own)} if own else {})


HALVES = {"dense": {"weight": 0.5}, "sparse": {"weight": 0.5}}
UNEVEN = {"dense": {"weight": 0.7}, "sparse": {"weight": 0.4}, "low_rank": {"weight": 1.3}}
OPPOSED = {"dense": {"weight": 1.0}, "low_rank": {"weight": -0.6}}
ALONG_LAYERS = {"dense": {"weight": [0.1, 0.9]}, "low_rank": {"weight": [1.0, 0.2, 0.6]}}
BY_NAME = {
    "dense": {"weight": filtered(0.3, mlp=0.9, self_attn=[0.2, 0.6])},
    "sparse": {"weight": filtered(0.8, layernorm=0.1, q_proj=0.5)},
}
WEIGHTS: Mapping[str, Models] = {
    "equal weights": HALVES,
    "three models": UNEVEN,
    "a negative weight": OPPOSED,
    "weights along the layers": ALONG_LAYERS,
    "weights by name": BY_NAME,
}


def cases() -> Iterator[Case]:
    """All of them."""
    yield from _means()
    yield from _rotations()
    yield from _of_changes()
    yield from _by_magnitude()
    yield from _layers()
    yield from _architectures()
    yield from _random()


def _means() -> Iterator[Case]:
    for title, models in WEIGHTS.items():
        yield Case(f"linear, {title}", merge("linear", models))
    yield Case("linear, sums as they are", merge("linear", UNEVEN, normalize=False))
    yield Case("linear, base among the models", merge("linear", {"base": {"weight": 0.2}, **HALVES}, "base"))
    for t in (0.0005, 0.02, filtered(0.01, mlp=[0.0, 0.05])):
        yield Case(f"nearswap, t {shown(t)}", merge("nearswap", {"base": {}, "dense": {}}, "base", t=t))
    yield Case("nearswap, far models", merge("nearswap", {"far": {}, "dense": {}}, "dense", t=0.1))


def _rotations() -> Iterator[Case]:
    for t in (0, 0.3, 0.5, 1, [0, 0.5, 0.3, 0.7, 1], filtered(0.5, self_attn=[0, 0.5, 1], mlp=[1, 0.2])):
        yield Case(f"slerp, t {shown(t)}", merge("slerp", {"dense": {}, "far": {}}, "dense", t=t))
    yield Case("slerp, base second", merge("slerp", {"dense": {}, "far": {}}, "far", t=0.3))
    yield Case("slerp, nearly parallel", merge("slerp", {"base": {}, "sparse": {}}, "base", t=0.3))
    pair = {"dense": {"weight": 0.6}, "far": {"weight": 0.2}}
    gradients = {"dense": {"weight": [0, 1]}, "far": {"weight": filtered(0.4, mlp=0.9)}}
    for base in (None, "base"):
        over = "" if base is None else ", over a base"
        yield Case(f"nuslerp{over}", merge("nuslerp", pair, base))
        yield Case(f"nuslerp{over}, weights along the layers and by name", merge("nuslerp", gradients, base))
        for row_wise in (False, True):
            title = f"nuslerp{over}, nuslerp_row_wise {str(row_wise).lower()}"
            options = {"nuslerp_flatten": False, "nuslerp_row_wise": row_wise}
            yield Case(title, merge("nuslerp", pair, base, **options))
        yield Case(f"nuslerp{over}, nearly parallel", merge("nuslerp", HALVES, base))
        trio = {**pair, "low_rank": {"weight": 0.5}}
        yield Case(f"multislerp{over}, two models", merge("multislerp", pair, base))
        yield Case(f"multislerp{over}, three models", merge("multislerp", trio, base))
        yield Case(f"multislerp{over}, weights as they are", merge("multislerp", trio, base, normalize_weights=False))
        yield Case(f"karcher{over}, two models", merge("karcher", {"dense": {}, "far": {}}, base))
        yield Case(f"karcher{over}, three models", merge("karcher", {"dense": {}, "low_rank": {}, "far": {}}, base))
    yield Case("multislerp, along the layers", merge("multislerp", gradients))
    yield Case("multislerp, large eps", merge("multislerp", pair, eps=1e-3))


def _of_changes() -> Iterator[Case]:
    for title, models in WEIGHTS.items():
        yield Case(f"task_arithmetic, {title}", merge("task_arithmetic", models, "base"))
    yield Case("task_arithmetic, lambda 0.4", merge("task_arithmetic", UNEVEN, "base", lambda_=0.4))
    yield Case("task_arithmetic, normalize", merge("task_arithmetic", UNEVEN, "base", normalize=True, lambda_=1.2))
    listed: Models = {"base": {}, **HALVES}
    yield Case("task_arithmetic, base in the list", merge("task_arithmetic", listed, "base"))
    several: Models = {"dense": {}, "sparse": {}, "low_rank": {}}
    yield Case("model_stock, two models", merge("model_stock", {"dense": {}, "far": {}}, "base"))
    yield Case("model_stock, three models", merge("model_stock", several, "base"))
    for topk in (1.0, 0.5, 0.1, [0.2, 0.9], filtered(0.7, mlp=0.3)):
        yield Case(
            f"sce, select_topk {shown(topk)}", merge("sce", several, "base", select_topk=topk), swaps=_AT_THE_CUTOFF
        )
    yield Case(
        "sce, two models", merge("sce", {"dense": {}, "low_rank": {}}, "base", select_topk=0.4), swaps=_AT_THE_CUTOFF
    )


def _with(models: Models, **own: Any) -> Models:
    return {name: {**values, **own} for name, values in models.items()}


def _by_magnitude() -> Iterator[Case]:
    for title, models in WEIGHTS.items():
        yield Case(f"ties, {title}", merge("ties", _with(models, density=0.2), "base"))
    for density in (1.0, 0.5, 0.05, [0.1, 0.9], filtered(0.3, mlp=0.6, norm=[1, 0.5])):
        yield Case(f"ties, density {shown(density)}", merge("ties", _with(UNEVEN, density=density), "base"))
    sparse = _with(UNEVEN, density=0.3)
    yield Case("ties, normalize false", merge("ties", sparse, "base", normalize=False))
    yield Case("ties, lambda 0.6", merge("ties", sparse, "base", lambda_=0.6))
    yield Case("ties, rescale", merge("ties", sparse, "base", rescale=True))
    yield Case("ties, int8_mask", merge("ties", sparse, "base", int8_mask=True))
    yield Case("ties, one model", merge("ties", {"dense": {"weight": 0.8, "density": 0.4}}, "base"))
    own = {"dense": {"weight": 0.5, "density": 0.7}, "sparse": {"weight": [0.2, 1.0], "density": 0.1}}
    yield Case("ties, a density for each model", merge("ties", own, "base"))
    for method in ("breadcrumbs", "breadcrumbs_ties"):
        for title, models in WEIGHTS.items():
            yield Case(f"{method}, {title}", merge(method, _with(models, density=0.6, gamma=0.02), "base"))
        for density, gamma in ((0.9, 0.05), (0.3, 0.2), ([0.4, 0.8], 0.1), (0.5, filtered(0.03, mlp=0.1))):
            title = f"{method}, density {shown(density)}, gamma {shown(gamma)}"
            yield Case(title, merge(method, _with(UNEVEN, density=density, gamma=gamma), "base"))
        yield Case(
            f"{method}, nothing at the top of vectors",
            merge(method, _with(UNEVEN, density=0.6, gamma=0.005), "base"),
            left_out=("norm",),
            note="⌊gamma·n⌋ = 0 drops a whole change in mergekit, and nothing at the top here",
        )


def _layers() -> Iterator[Case]:
    yield Case("passthrough, one model", merge("passthrough", {"dense": {}}))
    stack = [part([("dense", 0, 3)]), part([("sparse", 1, LAYERS)])]
    yield Case("passthrough, stacked layers", sliced("passthrough", stack))
    scales = filtered(1.0, o_proj=0.0, down_proj=0.0)
    again = [part([("dense", 0, 2)]), part([("dense", 1, 3)], [{"scale": scales}]), part([("dense", 2, LAYERS)])]
    yield Case("passthrough, repeated layers scaled by name", sliced("passthrough", again))
    single = [part([("dense", index, index + 1)]) for index in (3, 1, 2, 0, 0)]
    yield Case("passthrough, single layers", sliced("passthrough", single))
    both = [("dense", 0, LAYERS), ("far", 0, LAYERS)]
    yield Case("slerp, a slice of all layers", sliced("slerp", [part(both, t=[0, 1])], "dense", t=0.5))
    parts = [part([("dense", 0, 2), ("far", 2, 4)], t=0.2), part([("dense", 2, 3), ("far", 0, 1)], t=[0.5, 0.9])]
    yield Case("slerp, slices of other layers", sliced("slerp", parts, "dense", t=0.5))
    ranges = ((0, 3), (2, LAYERS))
    gradients = [{}, {"weight": [0, 1], "density": 0.3}, {"weight": filtered(0.5, mlp=1.2), "density": [0.2, 0.9]}]
    slices = [part([("base", *one), ("dense", *one), ("sparse", *one)], gradients) for one in ranges]
    yield Case("ties, overlapping slices", sliced("ties", slices, "base"))
    trio = [[(name, *one) for name in ("base", "dense", "sparse")] for one in ranges]
    own = [part(one, weight=0.3 + number, density=0.4) for number, one in enumerate(trio)]
    yield Case("ties, parameters of slices", sliced("ties", own, "base"))
    mixed = [
        part([("dense", 0, 2), ("sparse", 0, 2)], [{"weight": 1}, {"weight": 3}]),
        part([("dense", 2, LAYERS), ("far", 1, 3)], weight=0.5),
    ]
    yield Case("linear, slices", sliced("linear", mixed))


def _architectures() -> Iterator[Case]:
    for prefix in ("tied-", "qwen2-", "qwen3-"):
        name = prefix.rstrip("-")
        yield Case(f"ties, {name}", merge("ties", _with(UNEVEN, density=0.3), "base", prefix))
        yield Case(f"slerp, {name}", merge("slerp", {"dense": {}, "far": {}}, "dense", prefix, t=[0.2, 0.8]))
        yield Case(f"linear, {name}, by name", merge("linear", BY_NAME, None, prefix))


def _random() -> Iterator[Case]:
    one, two = {"dense": {"weight": 1.0}}, {"dense": {"weight": 0.6}, "low_rank": {"weight": 0.7}}
    for method in ("dare_linear", "dare_ties", "della", "della_linear"):
        more = {"epsilon": 0.1} if method.startswith("della") else {}
        for density in (0.2, 0.7):
            for rescale in (True, False):
                title = f"{method}, density {density}, rescale {str(rescale).lower()}"
                models = _with(one, density=density, **more)
                yield Case(title, merge(method, models, "base", rescale=rescale), is_random=True)
        for normalize in (True, False):
            title = f"{method}, two models, normalize {str(normalize).lower()}"
            models = _with(two, density=0.4, **more)
            yield Case(title, merge(method, models, "base", normalize=normalize), is_random=True)
        models = _with(two, density=[0.3, 0.8], **more)
        yield Case(
            f"{method}, along the layers, lambda 0.5", merge(method, models, "base", lambda_=0.5), is_random=True
        )
