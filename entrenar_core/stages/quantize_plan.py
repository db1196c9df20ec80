"""What `entrenar quantize` will write: the type of each tensor, the metadata, and the exact size of the file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import entrenar_core
from entrenar_core.config.base import content_hash
from entrenar_core.config.quantize import Quantize
from entrenar_core.config.quantize_file import QuantizeConfig
from entrenar_core.events import Reporter
from entrenar_core.gguf import keys
from entrenar_core.gguf.keys import FileType
from entrenar_core.gguf.layout import Layout, lay_out
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.values import MetadataValue, replaced_entries
from entrenar_core.quant.convert import Importance
from entrenar_core.quant.granularity import SHARED_TYPES
from entrenar_core.quant.mixes import choose_types, file_type
from entrenar_core.quant.plan import PlannedTensor, check_quantizable, model_facts, plan_tensors, shapes_and_types
from entrenar_core.stages.mix_request import mix_request
from entrenar_core.stages.output_file import check_output, plain_files
from entrenar_core.stages.quantize_importance import known_importance
from entrenar_core.stages.quantize_target import TargetSize, main_file_type, types_under
from entrenar_core.threads import available_cores

WITHOUT_CHOICE = frozenset({"F32", "F16", "BF16", "Q8_0"})
"""Types whose encoding looks at no importance, unless blocks share scales."""

Entries = list[tuple[str, MetadataValue]]


@dataclass(frozen=True)
class QuantizePlan:
    """A file that will be written.

    Attributes:
        file: the source, open.
        path: of the output; None in a dry run that names none.
        tensors: with their types.
        metadata: of the output.
        layout: where everything lies in it.
        importance: what errors are weighed by.
        granularity: what shares a scale.
        is_weighed: whether an importance was asked for.
    """

    file: GGUFFile
    path: Path | None
    tensors: Sequence[PlannedTensor]
    metadata: Entries
    layout: Layout
    importance: Importance
    granularity: str = "block"
    is_weighed: bool = False

    @property
    def source_bytes(self) -> int:
        """Size of the files that are read."""
        return sum(path.stat().st_size for path in self.file.paths)

    @property
    def bits_per_weight(self) -> float:
        """Bits of the tensors of the output for each of their values."""
        values = sum(one.info.n_values for one in self.tensors)
        return 8 * sum(one.n_bytes for one in self.tensors) / values

    def types(self) -> dict[str, int]:
        """Tensors by type, the most frequent first."""
        return dict(Counter(one.type_name for one in self.tensors).most_common())

    def notices(self) -> Iterator[str]:
        """What is not as it was asked for."""
        fell_back = Counter((one.wanted, one.type_name) for one in self.tensors if one.fell_back)
        for (wanted, got), count in fell_back.items():
            yield f"{_tensors(count, 'gets', 'get')} {got} instead of {wanted}: rows do not divide into its blocks"
        rounded = Counter(one.type_name for one in self.tensors if not one.is_copied)
        if self.granularity != "block":
            yield from self._scales_of_blocks(rounded)
        elif not rounded:
            yield "nothing becomes smaller: every tensor keeps the type that it has, and is copied"
        elif self.is_weighed and rounded.keys() <= WITHOUT_CHOICE:
            yield f"the importance changes nothing: {', '.join(sorted(rounded))} has no choice to make"

    def _scales_of_blocks(self, rounded: Counter[str]) -> Iterator[str]:
        """Which tensors share no scales; `rounded`: how many are encoded, by type."""
        for got in sorted(rounded.keys() - SHARED_TYPES.keys()):
            kept = "keeps those of its blocks" if rounded[got] == 1 else "keep those of their blocks"
            yield f"{_tensors(rounded[got])} of {got} cannot share scales and {kept}"
        copied = Counter(one.type_name for one in self.tensors if one.is_copied)
        for got in sorted(copied.keys() & SHARED_TYPES.keys()):
            how = "is copied with the scales that its" if copied[got] == 1 else "are copied with the scales that their"
            yield f"{_tensors(copied[got])} of {got} {how} blocks have"


def _tensors(count: int, singular: str = "", plural: str = "") -> str:
    """So many tensors, and the verb that belongs to them."""
    return f"1 tensor {singular}".rstrip() if count == 1 else f"{count} tensors {plural}".rstrip()


@contextmanager
def opened_plan(
    config: QuantizeConfig, reporter: Reporter, *, overwrite: bool, for_writing: bool = True
) -> Iterator[QuantizePlan]:
    """Look at the source and the place of the output, and choose all types; the source is open inside the block.

    Args:
        config: source, types, output.
        reporter: hears of the progress of what is measured.
        overwrite: whether a file that is there may be replaced.
        for_writing: without it, an importance that only changes the rounding is not measured.

    Raises:
        FormatError, ModelError: the source cannot be read or holds nothing to quantize.
        ConfigError: the types do not fit it.
        OutputError: the output cannot be written where it should be.
    """
    section = config.quantize
    with GGUFFile.open(config.model.path) as file:
        path = None if config.output.path is None else Path(config.output.path)
        if path is not None:
            check_output(path, [*file.paths, *_calibration_files(section)], overwrite=overwrite)
        check_quantizable(file)
        threads = config.run.threads or available_cores()
        measures = for_writing or section.target_size is not None
        known = known_importance(file, section.calibration, measures=measures, threads=threads, reporter=reporter)
        request = mix_request(section, model_facts(file.metadata))
        metadata = output_metadata(file, file_type(request.mix), provenance(section), known.keys)
        if section.target_size is None:
            chosen = choose_types(shapes_and_types(file), request)
        else:
            target = TargetSize(section.target_size, request, section.allow_requantize)
            chosen = types_under(target, file, metadata, known.of_tensors, threads, reporter)
            metadata = output_metadata(file, main_file_type(file.tensors, chosen), provenance(section), known.keys)
        tensors = plan_tensors(file, chosen, allow_requantize=section.allow_requantize)
        specs = [(one.name, tuple(one.info.shape), one.type_name) for one in tensors]
        layout = lay_out(metadata, specs, path or file.paths[0])
        is_weighed = section.calibration is not None
        yield QuantizePlan(file, path, tensors, metadata, layout, known.of_tensors, section.scale_group, is_weighed)


def _calibration_files(section: Quantize) -> list[Path]:
    """What is read besides the model."""
    known = section.calibration
    return [] if known is None else plain_files(known.data, known.imatrix)


def provenance(section: Quantize) -> Mapping[str, str]:
    """Keys that say how the file came to be; equal settings give equal keys. Those of a training run stay."""
    return {
        "entrenar.quantize.version": entrenar_core.__version__,
        "entrenar.quantize.type": section.mix or "target_size",
        "entrenar.quantize.settings_sha256": content_hash(section.model_dump(mode="json", by_alias=True)),
    }


def output_metadata(
    file: GGUFFile, kind: FileType | None, texts: Mapping[str, str], added: Mapping[str, MetadataValue]
) -> Entries:
    """The keys of the source, with the type of the file and the added keys in place of what they were.

    What the source says of an importance matrix is left out: the output has been rounded anew.
    """
    changed = {keys.GENERAL_QUANTIZATION_VERSION: MetadataValue.uint32(keys.QUANTIZATION_VERSION)}
    if kind is not None:
        changed[keys.GENERAL_FILE_TYPE] = MetadataValue.uint32(int(kind))
    changed |= {key: MetadataValue.string(value) for key, value in texts.items()} | dict(added)
    kept = [(key, value) for key, value in file.metadata_entries() if not key.startswith(keys.QUANTIZE_IMATRIX_PREFIX)]
    return replaced_entries(kept, changed)
