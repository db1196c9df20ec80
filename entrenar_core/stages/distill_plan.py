"""What a dry run says of a distillation, and what it reckons with: teachers, student, cache, and what they take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from entrenar_core.backend.base import Backend
from entrenar_core.config.root import Config
from entrenar_core.data.batch import Batch
from entrenar_core.data.pack import ROW_MULTIPLE
from entrenar_core.distill.cache import UniformTeacher, bytes_to_write
from entrenar_core.distill.layers import PROJECTION
from entrenar_core.distill.on_policy import OnPolicy, prompts_of
from entrenar_core.distill.student import StudentPlan
from entrenar_core.distill.targets import Targets
from entrenar_core.distill.teachers import TeacherSignal
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.model.load import Shape
from entrenar_core.stages.base_model import BaseModel
from entrenar_core.stages.dataset import DataSets
from entrenar_core.stages.distill import Distillation
from entrenar_core.stages.dry_pass import BatchShape, Teach
from entrenar_core.stages.plan_types import BlockPair, DistillPlan, StudentFacts, TeacherCacheFacts, TeacherFacts
from entrenar_core.train.parts import Learner

SHOWN_BLOCKS = 32
"""Blocks of a teacher that a plan names."""


def distill_plan(base: BaseModel, distillation: Distillation, data: DataSets | None) -> DistillPlan:
    """What is learned from, and how.

    Args:
        base: the student.
        distillation: its teachers.
        data: None before they are tokenized; how large a cache will be is then not known.

    Raises:
        OutputError, FormatError: the folder of the cache holds something else, or is damaged.
    """
    maps = distillation.vocabulary.maps
    return DistillPlan(
        objective=distillation.describe(),
        teachers=tuple(
            TeacherFacts(
                path=one.path,
                type=one.main_type,
                n_bytes=one.file_bytes,
                layers=one.spec.num_layers,
                hidden_size=one.spec.hidden_size,
                share=one.share,
                coverage=tokens.coverage,
            )
            for one, tokens in zip(distillation.teachers, maps, strict=True)
        ),
        compared=distillation.vocabulary.n,
        vocab_size=maps[0].n_tokens,
        student=None if base.student is None else _student_facts(base, base.student),
        layers=tuple(BlockPair(pair.student, pair.teacher) for pair in distillation.layer_map),
        cache=_cache_facts(distillation, data),
        on_policy=_on_policy(distillation),
    )


def _student_facts(base: BaseModel, plan: StudentPlan) -> StudentFacts:
    spec = plan.spec
    return StudentFacts(
        layers=spec.num_layers,
        hidden_size=spec.hidden_size,
        heads=spec.num_heads,
        kv_heads=spec.num_kv_heads,
        intermediate_size=spec.intermediate_size,
        parameters=base.n_parameters(),
        made_of=made_of(plan),
    )


def made_of(plan: StudentPlan) -> str:
    """What a student is made of, in words: ``blocks 0, 3 and 5 of 6; 192 of 256 channels``."""
    if plan.blocks is None:
        return "random weights"
    spec, teacher = plan.spec, plan.teacher_spec
    parts = [_blocks_in_words(plan.blocks, teacher.num_layers)]
    for count, whole, noun in (
        (spec.hidden_size, teacher.hidden_size, "channels"),
        (spec.num_heads, teacher.num_heads, "heads"),
        (spec.num_kv_heads, teacher.num_kv_heads, "key/value heads"),
        (spec.intermediate_size, teacher.intermediate_size, "neurons of each block"),
    ):
        if count < whole:
            parts.append(f"{count} of {whole} {noun}")
    return "; ".join(parts)


def _blocks_in_words(blocks: Sequence[int], whole: int) -> str:
    if len(blocks) == whole:
        return f"all {whole} blocks"
    if len(blocks) == 1:
        return f"block {blocks[0]} of {whole}"
    shown = ", ".join(map(str, blocks[: min(SHOWN_BLOCKS, len(blocks) - 1)]))
    last = f" ... {blocks[-1]}" if len(blocks) > SHOWN_BLOCKS + 1 else f" and {blocks[-1]}"
    return f"blocks {shown}{last} of {whole}"


def _cache_facts(distillation: Distillation, data: DataSets | None) -> TeacherCacheFacts | None:
    request = distillation.cache_request()
    if request is None:
        return None
    count = n_bytes = missing = None
    if data is not None and data.train is not None:
        targets = Targets.of(data.train.examples, data.train.indices)
        count, n_bytes, missing = len(targets), request.plan(targets).n_bytes(), bytes_to_write(request, targets)
    layout = request.layout
    return TeacherCacheFacts(
        path=str(request.folder),
        top_k=layout.top_k,
        vocab_size=layout.n_tokens,
        dtype=request.dtype,
        targets=count,
        n_bytes=n_bytes,
        missing=missing,
    )


def _on_policy(distillation: Distillation) -> str:
    section = distillation.section.on_policy
    if section is None:
        return ""
    return f"{section.fraction:.0%} of the batches, up to {section.max_tokens} tokens after each prompt"


def at_full_load(distillation: Distillation) -> Distillation:
    """The same with all pairs of blocks from the start, on batches of the data alone: what takes most at one time."""
    section = distillation.section
    hidden = section.hidden.model_copy(update={"progressive": 0})
    return replace(distillation, section=section.model_copy(update={"on_policy": None, "hidden": hidden}))


def stand_in(distillation: Distillation, backend: Backend) -> TeacherSignal | None:
    """What takes as long to ask as the cache that may not be there yet; None where the teachers run."""
    request = distillation.cache_request()
    return None if request is None else UniformTeacher(request.layout, backend)


def teach(config: Config, base: BaseModel, distillation: Distillation) -> Teach:
    """Puts the teachers beside a student whose passes only allocate."""
    full = at_full_load(distillation)

    def learner(student: LanguageModel) -> Learner:
        signal = stand_in(full, student.backend) or full.running(student.backend)
        return full.learner(student, signal, config, base.tokenizer)

    return learner


def missing_cache(plan: DistillPlan | None) -> int:
    """Bytes of the teachers' predictions that the run writes first."""
    return 0 if plan is None or plan.cache is None else plan.cache.missing or 0


def projections(base: BaseModel, distillation: Distillation | None) -> Mapping[str, Shape]:
    """What is trained beside the student: a matrix for each matched block where the widths differ."""
    if distillation is None:
        return {}
    own, others = base.spec.hidden_size, distillation.teachers[0].spec.hidden_size
    if own == others or not distillation.section.hidden.weight:
        return {}
    return {f"{PROJECTION}.{pair.student}.weight": (others, own) for pair in distillation.layer_map}


def running_files(distillation: Distillation, plan: DistillPlan) -> set[Path]:
    """The files of the teachers that run; none where a cache has all that they say, or nothing is learned of it."""
    section = distillation.section
    is_asked = section.alpha > 0 or distillation.layer_map or section.on_policy is not None
    if not is_asked or (plan.cache is not None and not missing_cache(plan)):
        return set()
    return {path.resolve() for one in distillation.teachers for path in one.file.paths}


def written_shapes(writer: OnPolicy | None, context_length: int, batches: Sequence[Batch]) -> list[BatchShape]:
    """The largest batch that a student with this context would write in the place of these."""
    if writer is None:
        return []
    most, shapes = writer.longest_text(context_length), []
    for batch in batches:
        prompts = [prompt for prompt in prompts_of(batch, writer.prompt_tokens) if len(prompt) < most]
        longest = min(most, max(map(len, prompts), default=0) + writer.max_tokens)
        shapes.append((len(prompts), -(-(longest - 1) // ROW_MULTIPLE) * ROW_MULTIPLE))
    return sorted((shape for shape in shapes if shape[0]), key=lambda shape: shape[0] * shape[1])[-1:]
