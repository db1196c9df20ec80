"""What a parameter of a merge is for one tensor: a number, the point of a gradient, or the value of the first filter.

It is looked up at the model in its slice, at the slice, and in the section `merge`; where nothing is said for the
tensor, the next one is asked, and the default of the method comes last.
"""

from __future__ import annotations

from collections.abc import Sequence

from entrenar_core.config.merge_parameters import Filtered, Gradient, Setting, TensorParameters
from entrenar_core.errors import FormatError, ModelError
from entrenar_core.gguf.names import to_hugging_face


def filter_name(name: str, architecture: str) -> str:
    """What filters look into: the name in Hugging Face; that of GGUF where nothing is known of the other.

    An architecture whose names are not known has those of GGUF, and so have tensors beside the usual ones.
    """
    try:
        return to_hugging_face(name, architecture) or name
    except (ModelError, FormatError):
        return name


def layer_fraction(layer: int, n_layers: int) -> float:
    """t of a layer of a slice: 0 for the first, 1 for the last and for an only one."""
    return layer / (n_layers - 1) if n_layers > 1 else 1.0


def along(gradient: Gradient, t: float) -> float:
    """The value at t in [0, 1] of the line through the numbers of a gradient, which are at equal distances."""
    position = t * (len(gradient) - 1)
    before = int(position)
    after = min(before + 1, len(gradient) - 1)
    share = position - before
    return (1 - share) * gradient[before] + share * gradient[after]


def resolved(setting: Setting | None, name: str, t: float) -> float | None:
    """The number for one tensor.

    Args:
        setting: a parameter as it was given; None: not at all.
        name: see `filter_name`.
        t: see `layer_fraction`; 0 for a tensor that belongs to no layer.

    Returns:
        None: nothing is said for this tensor.
    """
    if not isinstance(setting, tuple):
        return setting
    value = _of_tensor(setting, name)
    return along(value, t) if isinstance(value, tuple) else value


def _of_tensor(setting: Gradient | tuple[Filtered, ...], name: str) -> float | Gradient | None:
    """A gradient as it is; of filters the value of the first that the name has."""
    filters = [entry for entry in setting if isinstance(entry, Filtered)]
    if not filters:
        return tuple(number for number in setting if isinstance(number, float))
    return next((entry.value for entry in filters if entry.matches(name)), None)


def look_up(key: str, levels: Sequence[object], name: str, t: float, default: float) -> float:
    """A parameter from the first level that says something for the tensor.

    Args:
        key: the name of the parameter in `config.merge_parameters`.
        levels: sections, the nearest one first.
        name, t: see `resolved`.
        default: where none says anything.
    """
    for level in levels:
        found = resolved(getattr(level, key, None), name, t)
        if found is not None:
            return found
    return default


def look_up_plain(key: str, levels: Sequence[TensorParameters]) -> object:
    """A parameter that is the same for all tensors, from the first level that has it; None: no level."""
    given = (getattr(level, key) for level in levels)
    return next((value for value in given if value is not None), None)
