"""How `entrenar inspect` shows what it found: one function a kind, from facts to sections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from entrenar_cli.quantities import exact_count, short_count, size
from entrenar_cli.sections import Facts, Section, Table
from entrenar_cli.visible import shortened
from entrenar_core.stages.data_facts import DataFacts
from entrenar_core.stages.gguf_facts import AdapterFacts, HeadFacts, ModelFacts, OtherGGUF, TensorType, TokenizerFacts
from entrenar_core.stages.inspect import Inspected
from entrenar_core.stages.inspect_peft import PeftFacts
from entrenar_core.stages.inspect_run import CheckpointFacts, RunFacts

MAX_LISTED = 12
"""Rows of a table of tensors, classes or keys; the rest is counted."""

LONGEST_TEXT = 100


def sections_of(found: Inspected) -> list[Section]:
    """What there is to show, in the order in which it is shown."""
    match found:
        case ModelFacts():
            return _model(found)
        case AdapterFacts():
            return _adapter(found)
        case HeadFacts():
            return _head(found)
        case OtherGGUF():
            return _other(found)
        case CheckpointFacts():
            return _checkpoint(found)
        case RunFacts():
            return _run(found)
        case PeftFacts():
            return _peft(found)
        case DataFacts():
            return _data(found)


def _model(found: ModelFacts) -> list[Section]:
    sizes = found.sizes
    heads = f"{sizes.heads}, {sizes.kv_heads} for keys and values, of size {sizes.head_dim}" if sizes.heads else ""
    facts = Facts(
        f"{found.path}: {found.kind}",
        [
            ("name", shortened(found.name or "", LONGEST_TEXT)),
            ("architecture", found.architecture or ""),
            ("parameters", f"{short_count(found.parameters)} ({exact_count(found.parameters)})"),
            ("size", f"{size(found.n_bytes)}, GGUF version {found.version}{_shards(found.files)}"),
            ("layers", _number(sizes.layers)),
            ("hidden size", _number(sizes.hidden_size)),
            ("heads", heads),
            ("feed-forward", _number(sizes.intermediate_size)),
            ("context", f"{exact_count(sizes.context_length)} tokens" if sizes.context_length else ""),
            (
                "output matrix",
                "the token embedding" if found.tied_embeddings else "its own" if found.parameters else "",
            ),
            ("can be trained", "yes" if found.obstacle is None else f"no: {found.obstacle}"),
        ],
    )
    return [facts, _types(found.tensor_types), *_tokenizer(found.tokenizer), _templates(found), _keys(found.provenance)]


def _output_matrix(found: ModelFacts) -> str:
    if not found.parameters:
        return ""
    return "the token embedding" if found.tied_embeddings else "its own"


def _shards(files: Sequence[str]) -> str:
    return f", in {len(files)} files" if len(files) > 1 else ""


def _number(value: int | None) -> str:
    return "" if value is None else exact_count(value)


def _types(types: Sequence[TensorType]) -> Table:
    total = sum(one.values for one in types) or 1
    rows = [
        (
            one.type,
            exact_count(one.tensors),
            short_count(one.values),
            size(one.n_bytes),
            f"{8 * one.n_bytes / one.values:.2f}",
            f"{100 * one.values / total:.1f} %",
        )
        for one in types
    ]
    columns = ("type", "tensors", "weights", "size", "bits a weight", "share")
    return Table("tensors", columns, rows, frozenset(range(1, len(columns))))


def _tokenizer(found: TokenizerFacts | None) -> list[Section]:
    if found is None:
        return []
    added = [name for name, is_added in (("BOS", found.add_bos), ("EOS", found.add_eos)) if is_added]
    kind = found.model or "unknown"
    return [
        Facts(
            "tokenizer",
            [
                ("kind", kind if found.pre is None else f"{kind}, pre-tokenizer {found.pre}"),
                ("vocabulary", f"{exact_count(found.vocab_size)} tokens"),
                ("adds", " and ".join(added) or ("nothing" if found.add_bos is not None else "")),
                *((f"{one.use} token", f"{one.id}  {_token(one.text)}") for one in found.special),
            ],
        )
    ]


def _token(text: str | None) -> str:
    return "outside the vocabulary" if text is None else shortened(text, LONGEST_TEXT)


def _templates(found: ModelFacts) -> Table:
    rows = [
        (shortened(one.name, 40), f"{exact_count(one.characters)} characters", shortened(one.first_line, LONGEST_TEXT))
        for one in found.chat_templates
    ]
    return Table("chat templates", ("name", "length", "first line"), rows)


def _keys(found: Mapping[str, str], title: str = "made by entrenar") -> Facts:
    pairs = [(shortened(key, 60), shortened(value, LONGEST_TEXT)) for key, value in found.items()]
    more = [("...", f"{len(pairs) - 3 * MAX_LISTED} more keys")] if len(pairs) > 3 * MAX_LISTED else []
    return Facts(title, pairs[: 3 * MAX_LISTED] + more)


def _adapter(found: AdapterFacts) -> list[Section]:
    ranks = ", ".join(str(rank) for rank in found.ranks)
    facts = Facts(
        f"{found.path}: LoRA adapter",
        [
            ("name", shortened(found.name or "", LONGEST_TEXT)),
            ("for", f"{found.architecture} models" if found.architecture else ""),
            ("rank", ranks),
            ("alpha", "" if found.alpha is None else _alpha(found.alpha, found.ranks)),
            ("targets", ", ".join(f"{module} in {count} layers" for module, count in found.targets.items())),
            ("parameters", f"{short_count(found.parameters)} ({exact_count(found.parameters)})"),
            ("size", size(found.n_bytes)),
        ],
    )
    return [facts, _types(found.tensor_types), _keys(found.provenance)]


def _alpha(alpha: float, ranks: Sequence[int]) -> str:
    scale = f" (the adapter is multiplied by {alpha / ranks[0]:g})" if alpha and len(ranks) == 1 and ranks[0] else ""
    return f"{alpha:g}{scale}"


def _head(found: HeadFacts) -> list[Section]:
    more = f" and {len(found.classes) - MAX_LISTED} more" if len(found.classes) > MAX_LISTED else ""
    shown = ", ".join(shortened(one, 40) for one in found.classes[:MAX_LISTED])
    facts = Facts(
        f"{found.path}: task head",
        [
            ("task", found.task),
            ("reads", f"column {shortened(found.text_column, 60)}"),
            ("answers", f"column {shortened(found.target_column, 60)}"),
            ("classes", f"{len(found.classes)}: {shown}{more}" if found.classes else ""),
            ("scale", "" if found.classes else f"mean {found.mean:g}, standard deviation {found.std:g}"),
            ("for", f"{found.architecture} models" if found.architecture else ""),
            ("size", size(found.n_bytes)),
        ],
    )
    return [facts, _types(found.tensor_types), _keys(found.provenance)]


def _other(found: OtherGGUF) -> list[Section]:
    what = f"GGUF file of type {shortened(found.type, 40)}" if found.type else "GGUF file that is no model"
    facts = Facts(f"{found.path}: {what}", [("size", size(found.n_bytes))])
    return [facts, _types(found.tensor_types), _keys(found.keys, "keys")]


def _checkpoint(found: CheckpointFacts) -> list[Section]:
    facts = Facts(
        f"{found.path}: checkpoint",
        [
            ("whole", "yes" if found.problem is None else f"no: {found.problem}"),
            ("step", _number(found.step)),
            ("epoch", _number(found.epoch)),
            ("tokens seen", _number(found.tokens)),
            ("training loss", _loss(found.train_loss)),
            ("validation loss", _loss(found.val_loss)),
            ("best so far", _best(found.best_val_loss, found.best_step)),
            ("trained", f"{len(found.tensors)} tensors, {short_count(found.trained_values)} values"),
            ("size", size(found.n_bytes)),
        ],
    )
    rows = [(one.name, " × ".join(str(axis) for axis in one.shape), one.type) for one in found.tensors[:MAX_LISTED]]
    hidden = len(found.tensors) - len(rows)
    more = [(f"and {hidden} more", "", "")] if hidden else []
    tensors = Table("trained tensors", ("name", "shape", "type"), rows + more)
    return [facts, tensors, _keys(found.config, "config"), _keys(found.environment, "made on")]


def _run(found: RunFacts) -> list[Section]:
    going_on = "no checkpoint is whole" if found.checkpoints else "there is no checkpoint"
    facts = Facts(
        f"{found.path}: run",
        [
            ("finished", "yes" if found.is_finished else "no: there is no model and no adapter"),
            ("steps", exact_count(found.steps)),
            ("training loss", _loss(found.train_loss)),
            ("validation loss", _loss(found.val_loss)),
            ("best so far", _best(found.best_val_loss, found.best_step)),
            ("checkpoints", ", ".join(exact_count(step) for step in found.checkpoints)),
            ("can go on", going_on if found.resumable_from is None else f"from step {found.resumable_from}"),
            ("problems", "; ".join(found.problems)),
            ("size", size(found.n_bytes)),
        ],
    )
    files = Table("files", ("name", "size"), [(one.name, size(one.n_bytes)) for one in found.files], frozenset({1}))
    return [facts, files]


def _loss(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _best(loss: float | None, step: int | None) -> str:
    return "" if loss is None or step is None else f"{loss:.4f} at step {exact_count(step)}"


def _peft(found: PeftFacts) -> list[Section]:
    kinds = [name for name, is_used in (("rsLoRA", found.uses_rslora), ("DoRA", found.uses_dora)) if is_used]
    return [
        Facts(
            f"{found.path}: PEFT adapter",
            [
                ("kind", ", ".join([found.type or "unknown", *kinds])),
                ("base model", shortened(found.base_model or "", LONGEST_TEXT)),
                ("rank", _number(found.rank)),
                ("alpha", "" if found.alpha is None else f"{found.alpha:g}"),
                ("targets", ", ".join(found.targets)),
                ("weights", "none in safetensors" if found.tensors is None else f"{found.tensors} tensors"),
                ("size", size(found.n_bytes)),
            ],
        )
    ]


def _data(found: DataFacts) -> list[Section]:
    part = "" if found.looked_at == found.rows else f" ({exact_count(found.looked_at)} of them looked at)"
    facts = Facts(
        f"{found.path}: data",
        [
            ("format", f"{found.format}{_shards(found.files)}"),
            ("rows", f"{exact_count(found.rows)}{part}"),
            ("size", size(found.n_bytes)),
            ("task", found.task or f"none: {found.undecided}"),
        ],
    )
    rows = [
        (shortened(one.name, 40), one.kind, one.role or "", exact_count(one.missing), one.reason)
        for one in found.columns
    ]
    columns = Table("columns", ("column", "type", "used as", "missing", "because"), rows, frozenset({3}))
    examples = Table(
        "values",
        ("column", "value"),
        [(shortened(one.name, 40), shortened(value, LONGEST_TEXT)) for one in found.columns for value in one.examples],
    )
    return [facts, columns, examples]
