"""A student shaped from a teacher: fewer of its blocks, and of each the most important heads, neurons and channels.

Which part of the teacher becomes which part of the student is decided here, from shapes alone; the weights are made in
`student_weights`. Blocks are copied whole where nothing is narrower, so a student with all of them is the teacher.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from entrenar_core.config.student import Student
from entrenar_core.errors import ConfigError
from entrenar_core.gguf import keys
from entrenar_core.gguf.names import ROPE_FREQS
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.values import MetadataValue
from entrenar_core.model.initialize import spec_metadata
from entrenar_core.model.load import Shape, expected_shapes, optional_shapes, read_spec
from entrenar_core.model.spec import DecoderSpec

SECTION = "distill.student"
FLOATS, NEW_TYPE = ("F32", "F16", "BF16"), "F16"

SQUARE_QUERIES = ("qwen2",)
"""Architectures that llama.cpp loads only where the heads are together as wide as the residual stream."""

_OF_THE_SHAPE = (
    keys.EMBEDDING_LENGTH, keys.BLOCK_COUNT, keys.FEED_FORWARD_LENGTH, keys.HEAD_COUNT, keys.HEAD_COUNT_KV,
    keys.KEY_LENGTH, keys.VALUE_LENGTH, keys.ROPE_DIMENSION_COUNT,
)  # fmt: skip
_OF_THE_FILE = (keys.GENERAL_FILE_TYPE, keys.GENERAL_QUANTIZATION_VERSION, keys.GENERAL_SIZE_LABEL)
"""Keys that say how the teacher is stored or how large it is, which the student is not."""


@dataclass(frozen=True)
class StudentPlan:
    """What becomes of a teacher.

    Attributes:
        teacher: stays open for as long as weights are made.
        teacher_spec: its shape.
        spec: the student's.
        blocks: the teacher's block that each of the student's is made from; None: weights are random.
        matrix_type: in which type matrices are written where nothing else is asked for: the teacher's own if it is a
            floating-point type, else F16, as any new model.
    """

    teacher: GGUFFile
    teacher_spec: DecoderSpec
    spec: DecoderSpec
    blocks: tuple[int, ...] | None
    matrix_type: str

    @property
    def needs_activity(self) -> bool:
        """Whether something is chosen inside of the blocks, by what the teacher does with data."""
        return (
            self.blocks is not None and replace(self.spec, num_layers=self.teacher_spec.num_layers) != self.teacher_spec
        )

    def shapes(self) -> dict[str, Shape]:
        """Name and shape of every tensor of the student's file, the factors of RoPE included."""
        found = dict(expected_shapes(self.spec))
        for name, shape in optional_shapes(self.spec).items():
            is_random_bias = self.blocks is None and name != ROPE_FREQS
            if name not in found and not is_random_bias and self.source(name) in self.teacher.tensors:
                found[name] = shape
        return found

    def source(self, name: str) -> str:
        """The teacher's tensor that one of the student's is made from: ``blk.1.attn_q.weight`` of another block."""
        prefix, _, rest = name.partition(".")
        if prefix != "blk" or self.blocks is None:
            return name
        block, _, module = rest.partition(".")
        return f"blk.{self.blocks[int(block)]}.{module}"

    def metadata(self, name: str) -> list[tuple[str, MetadataValue]]:
        """The teacher's keys with the student's shape; `name` is that of the student, for ``general.name``."""
        architecture = self.spec.architecture
        of_shape = {f"{architecture}.{key}" for key in _OF_THE_SHAPE}
        made = {key: value for key, value in spec_metadata(self.spec, name) if key in of_shape | {keys.GENERAL_NAME}}
        kept = {key: value for key, value in self.teacher.metadata_entries() if _still_holds(key)}
        return list({**kept, **made}.items())


def _still_holds(key: str) -> bool:
    return key not in _OF_THE_FILE and not key.startswith(keys.QUANTIZE_IMATRIX_PREFIX)


def plan_student(section: Student, teacher: GGUFFile) -> StudentPlan:
    """The shape of a student and where its blocks come from.

    Args:
        section: of the configuration.
        teacher: any type of tensors.

    Raises:
        ConfigError: a size that cannot be had from this teacher; names the key.
        ModelError: the teacher is no model that can be computed.
    """
    spec = read_spec(teacher)
    is_random = section.init == "random"
    layers = section.layers if section.layers is not None else spec.num_layers
    blocks = _blocks(layers, spec.num_layers, is_random=is_random)
    heads, kv_heads = _heads(section, spec)
    shape = replace(
        spec,
        num_layers=layers if isinstance(layers, int) else len(layers),
        hidden_size=section.hidden or spec.hidden_size,
        num_heads=heads,
        num_kv_heads=kv_heads,
        intermediate_size=section.ffn or spec.intermediate_size,
    )
    if not is_random:
        _check_widths(shape, spec)
    _check_queries(shape, spec)
    return StudentPlan(teacher, spec, shape, None if is_random else blocks, _matrix_type(teacher))


def evenly_spread(count: int, of: int) -> tuple[int, ...]:
    """`count` of the blocks 0 .. `of` - 1 at even distances, the first and the last among them; one alone is the first,
    the only block that has learned to read embeddings."""
    if count == 1:
        return (0,)
    return tuple((2 * index * (of - 1) + count - 1) // (2 * (count - 1)) for index in range(count))


def _blocks(layers: int | tuple[int, ...], present: int, *, is_random: bool) -> tuple[int, ...]:
    if is_random:
        return ()
    if isinstance(layers, int):
        if layers > present:
            raise _too_large("layers", layers, present, "blocks")
        return evenly_spread(layers, present)
    if layers[-1] >= present:
        message = f"there is no block {layers[-1]}: the teacher has {present}, counted from 0"
        raise ConfigError(message, where=f"{SECTION}.layers", hint=f"the last one is {present - 1}")
    return layers


def _heads(section: Student, spec: DecoderSpec) -> tuple[int, int]:
    """Query heads and key/value heads.

    Raises:
        ConfigError: the heads cannot share their key/value heads evenly.
    """
    share = spec.num_heads // spec.num_kv_heads
    heads, kv_heads = section.heads, section.kv_heads
    if heads is None:
        kv_heads = kv_heads or spec.num_kv_heads
        return kv_heads * share, kv_heads
    if kv_heads is not None:
        return heads, kv_heads  # the section has seen that they fit
    for candidate in (spec.num_kv_heads, heads // share):
        if candidate and heads % candidate == 0 and (candidate == spec.num_kv_heads or heads % share == 0):
            return heads, candidate
    raise ConfigError(
        f"{heads} heads fit neither the teacher's {spec.num_kv_heads} key/value heads nor {share} heads for each",
        where=f"{SECTION}.heads",
        hint="set kv_heads too",
    )


def _check_widths(shape: DecoderSpec, teacher: DecoderSpec) -> None:
    """Only what is there can be chosen from."""
    for key, wanted, present, noun in (
        ("hidden", shape.hidden_size, teacher.hidden_size, "channels"),
        ("heads", shape.num_heads, teacher.num_heads, "heads"),
        ("kv_heads", shape.num_kv_heads, teacher.num_kv_heads, "key/value heads"),
        ("ffn", shape.intermediate_size, teacher.intermediate_size, "neurons in each feed-forward layer"),
    ):
        if wanted > present:
            raise _too_large(key, wanted, present, noun)
    share, present_share = shape.num_heads // shape.num_kv_heads, teacher.num_heads // teacher.num_kv_heads
    if share > present_share:
        raise ConfigError(
            f"{share} heads would share one of {shape.num_kv_heads} key/value heads; in the teacher it is "
            f"{present_share}, and each head is copied with its own",
            where=f"{SECTION}.kv_heads",
            hint=f"set heads: {shape.num_kv_heads * present_share}, or more kv_heads",
        )


def _check_queries(shape: DecoderSpec, teacher: DecoderSpec) -> None:
    """What llama.cpp can load stays so."""
    is_square = teacher.query_size == teacher.hidden_size
    if shape.architecture in SQUARE_QUERIES and is_square and shape.query_size != shape.hidden_size:
        raise ConfigError(
            f"llama.cpp would not load a {shape.architecture} model whose {shape.num_heads} heads of {shape.head_dim} "
            f"are not as wide as hidden {shape.hidden_size}",
            where=f"{SECTION}.heads",
            hint=f"set hidden: {shape.query_size}, or heads to hidden / {shape.head_dim}",
        )


def _too_large(key: str, wanted: int, present: int, noun: str) -> ConfigError:
    return ConfigError(
        f"value {wanted}; the teacher has {present} {noun}",
        where=f"{SECTION}.{key}",
        hint=f"set at most {present}, or init: random, which copies nothing",
    )


def _matrix_type(teacher: GGUFFile) -> str:
    values: Counter[str] = Counter()
    for info in teacher.tensors.values():
        if len(info.shape) == 2:
            values[info.type_name] += info.n_values
    main = max(values, key=lambda type_name: values[type_name])
    return main if main in FLOATS else NEW_TYPE
