"""The section `distill.student`: a new model whose shape, and unless it is said otherwise whose weights, come from a
teacher."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from entrenar_core.config.base import AnyCase, Conflict, Section, is_count, not_allowed

SIZES = ("layers", "hidden", "heads", "kv_heads", "ffn")
"""Keys of the shape; what none of them says is as in the teacher."""


def is_block(value: object) -> bool:
    """True for the number of a block, counted from 0."""
    return is_count(value) or (isinstance(value, int) and not isinstance(value, bool) and value == 0)


def _blocks(value: Any) -> Any:
    if value is None or is_count(value):
        return value
    is_list = isinstance(value, (list, tuple)) and len(value) > 0 and all(is_block(block) for block in value)
    if not is_list or any(later <= block for block, later in pairwise(value)):
        raise not_allowed("a number of blocks such as 6, or a rising list of the teacher's blocks, such as [0, 2, 5]")
    return tuple(value)


_Written = (
    Annotated[int, Field(ge=1)] | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None
)  # for the JSON Schema


class Student(Section):
    """The shape of a new model, made from the first teacher."""

    layers: Annotated[int | tuple[int, ...] | None, BeforeValidator(_blocks, json_schema_input_type=_Written)] = Field(
        default=None,
        description="number of blocks, spread evenly over the teacher's with the first and the last, or a list of the "
        "teacher's blocks, counted from 0; default: all",
    )
    hidden: int | None = Field(
        default=None, ge=1, description="width of the residual stream; default: as in the teacher"
    )
    heads: int | None = Field(
        default=None,
        ge=1,
        description="number of attention heads, each of the teacher's size; default: as many for each key/value head "
        "as in the teacher",
    )
    kv_heads: int | None = Field(
        default=None,
        ge=1,
        description="number of key/value heads; default: as in the teacher where they divide heads, else as many heads "
        "share one as in the teacher",
    )
    ffn: int | None = Field(
        default=None, ge=1, description="width of the feed-forward layer; default: as in the teacher"
    )
    init: Annotated[Literal["from_teacher", "random"], AnyCase] = Field(
        default="from_teacher",
        description="from_teacher: the teacher's weights, of narrower layers the most important rows and columns; "
        "random: only its shape",
    )

    @classmethod
    def conflicts(cls, given: Mapping[str, Any]) -> Iterator[Conflict]:
        is_random = str(given.get("init", "from_teacher")).lower() == "random"
        if is_random and isinstance(given.get("layers"), (list, tuple)):
            yield Conflict(
                "layers",
                "names blocks of the teacher to copy, and init: random copies none",
                f"set layers: {len(given['layers'])}",
            )
        if not is_random and not any(key in given for key in SIZES):
            yield Conflict(
                "layers",
                "nothing is smaller than in the teacher",
                "set layers, hidden, heads, kv_heads or ffn; to train a copy of the teacher, name it in model.path",
            )
        heads, kv_heads = given.get("heads"), given.get("kv_heads")
        if is_count(heads) and is_count(kv_heads) and heads % kv_heads:
            yield Conflict("kv_heads", f"{heads} heads cannot share {kv_heads} key/value heads evenly")
