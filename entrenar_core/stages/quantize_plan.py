"""What `entrenar quantize` will write: the type of each tensor, the metadata, and the exact size of the file."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import entrenar_core
from entrenar_core.config.quantize import Quantize
from entrenar_core.config.quantize_file import QuantizeConfig
from entrenar_core.errors import OutputError
from entrenar_core.gguf import keys
from entrenar_core.gguf.keys import FileType
from entrenar_core.gguf.layout import Layout, lay_out
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.values import MetadataValue
from entrenar_core.quant.mix_rules import ModelFacts
from entrenar_core.quant.mixes import MixRequest, choose_types, file_type
from entrenar_core.quant.plan import PlannedTensor, check_quantizable, model_facts, plan_tensors, shapes_and_types

QUANTIZATION_VERSION = 2
"""Of the block layouts; the one that llama.cpp has had since 2023."""

Entries = list[tuple[str, MetadataValue]]


@dataclass(frozen=True)
class QuantizePlan:
    """A file that will be written.

    Attributes:
        file: the source, open.
        path: of the output.
        tensors: with their types.
        metadata: of the output.
        layout: where everything lies in it.
    """

    file: GGUFFile
    path: Path
    tensors: Sequence[PlannedTensor]
    metadata: Entries
    layout: Layout

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
            yield (
                f"{count} tensor{'s' if count != 1 else ''} get {got} instead of {wanted}: "
                f"rows do not divide into its blocks"
            )


@contextmanager
def opened_plan(config: QuantizeConfig, *, overwrite: bool) -> Iterator[QuantizePlan]:
    """Look at the source and the place of the output, and choose all types; the source is open inside the block.

    Raises:
        FormatError, ModelError: the source cannot be read or holds nothing to quantize.
        ConfigError: the types do not fit it.
        OutputError: the output cannot be written where it should be.
    """
    with GGUFFile.open(config.model.path) as file:
        path = Path(config.output.path)
        check_output(path, file.paths, overwrite=overwrite)
        check_quantizable(file)
        section = config.quantize
        chosen = choose_types(shapes_and_types(file), mix_request(section, model_facts(file)))
        tensors = plan_tensors(file, chosen, allow_requantize=section.allow_requantize)
        metadata = output_metadata(file, file_type(section.mix), provenance(section))
        specs = [(one.name, tuple(one.info.shape), one.type_name) for one in tensors]
        yield QuantizePlan(file, path, tensors, metadata, lay_out(metadata, specs, path))


def mix_request(section: Quantize, facts: ModelFacts, *, has_importance: bool = False) -> MixRequest:
    """What the section asks of the mixes."""
    return MixRequest(
        mix=section.mix,
        pure=section.pure,
        output_type=section.output_type,
        embedding_type=section.embedding_type,
        tensor_types=tuple((section.tensor_types or {}).items()),
        has_importance=has_importance,
        query_groups=facts.query_groups,
        model=facts,
    )


def check_output(path: Path, inputs: Sequence[Path], *, overwrite: bool) -> None:
    """See that the output may be written, before any work is done.

    Raises:
        OutputError: it is one of the inputs (by another name too), is there already, or its folder is not there or may
            not be written.
    """
    if path.is_dir():
        raise OutputError("there is a folder of this name", where=str(path), hint="name a file: -o FOLDER/model.gguf")
    if not path.parent.is_dir():
        raise OutputError(f"the folder {path.parent} does not exist", where=str(path), hint=f"mkdir -p {path.parent}")
    if path.exists():
        if any(os.path.samefile(path, one) for one in inputs):
            raise OutputError(
                "this is the file that is read; it would be lost", where=str(path), hint="choose another name with -o"
            )
        if not overwrite:
            raise OutputError("the file is there already", where=str(path), hint="replace it with --overwrite")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OutputError(
            f"the folder {path.parent} cannot be written", where=str(path), hint="choose another folder with -o"
        )


def provenance(section: Quantize) -> Mapping[str, str]:
    """Keys that say how the file came to be; equal settings give equal keys. Those of a training run stay."""
    content = section.model_dump(mode="json", by_alias=True)
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return {
        "entrenar.quantize.version": entrenar_core.__version__,
        "entrenar.quantize.type": section.mix or "target_size",
        "entrenar.quantize.settings_sha256": hashlib.sha256(canonical.encode()).hexdigest(),
    }


def output_metadata(file: GGUFFile, kind: FileType | None, added: Mapping[str, str]) -> Entries:
    """The keys of the source, with the type of the file and the added keys in place of what they were."""
    changed = {keys.GENERAL_QUANTIZATION_VERSION: MetadataValue.uint32(QUANTIZATION_VERSION)}
    if kind is not None:
        changed[keys.GENERAL_FILE_TYPE] = MetadataValue.uint32(int(kind))
    changed |= {key: MetadataValue.string(value) for key, value in added.items()}
    entries = [(key, changed.pop(key, value)) for key, value in file.metadata_entries()]
    return [*entries, *changed.items()]
