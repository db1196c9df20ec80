"""mergekit's YAML, as it is: put under our own keys before it is checked, with the place of every value.

What a key means there is what it means here. What has no effect is said, and what is not there is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from entrenar_core.config.base import KeyPath, dotted
from entrenar_core.config.merge_conflicts import files_key
from entrenar_core.config.merge_methods import METHODS, MethodFacts
from entrenar_core.config.merge_models import split_reference
from entrenar_core.config.merge_parameters import MODEL_KEYS
from entrenar_core.config.moved_places import Moving, Placed
from entrenar_core.config.yaml_places import Source

_TOP = (
    "merge_method", "base_model", "models", "slices", "modules", "parameters", "tokenizer_source", "tokenizer", "dtype",
    "out_dtype",
)  # fmt: skip
_OURS = ("version", "output", "run")
"""Sections of our own that may stand beside mergekit's keys."""

_PARAMETERS: Mapping[str, str] = {
    **{
        name: name for name in ("weight", "density", "gamma", "epsilon", "scale", "t", "lambda", "normalize", "rescale")
    },
    "select_topk": "select_topk",
    "eps": "eps",
    "nuslerp_flatten": "flatten",
    "nuslerp_row_wise": "row_wise",
    "normalize_weights": "normalize",
}
"""mergekit's name -> ours."""

_FLAGS = ("normalize", "rescale", "normalize_weights", "nuslerp_flatten", "nuslerp_row_wise")

_FIXED: Mapping[str, object] = {"max_iter": 10, "tol": 1e-5, "filter_wise": False}
"""Parameters that cannot be set here, and what they are."""

_TYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}

_UNAVAILABLE: Mapping[str, str] = {
    "chat_template": "the result has the chat template of its tokenizer; remove it",
    "residual_weight": "slices have no residual here; remove it",
    "residual_model": "slices have no residual here; remove it",
    "tokens": "single tokens cannot be chosen; remove it, and with source: union each token is averaged",
    "pad_to_multiple_of": "the vocabulary is as long as its tokens; remove it",
}


@dataclass
class Translated:
    """A file in our form; `names`: our dotted keys -> those that the file has; `notices`: what has no effect."""

    source: Source
    names: dict[str, str] = field(default_factory=dict)
    problems: Sequence[Placed] = ()
    notices: tuple[str, ...] = ()


def translated(source: Source) -> Translated:
    """The values of a file of mergekit under our keys."""
    moving = Moving(source)
    notices = _Translation(moving).run()
    return Translated(moving.new, moving.names, moving.problems, tuple(dict.fromkeys(notices)))


class _Translation:
    def __init__(self, file: Moving) -> None:
        self.file = file
        self.notices: list[str] = []
        self.facts: MethodFacts | None = METHODS.get(str(file.value(("merge_method",))).lower())

    def run(self) -> list[str]:
        file = self.file
        file.put(("merge",), {}, ())
        for key in _OURS:
            file.move((key,), (key,))
        file.names["merge.method"] = "merge_method"
        file.move(("merge", "method"), ("merge_method",))
        self._reference(("merge", "base"), ("base_model",))
        self._part(())
        self._modules()
        self._tokenizer()
        self._type()
        self._check_keys((), (*_TOP, *_OURS))
        return self.notices

    def _part(self, old: KeyPath) -> None:
        """Models, slices and parameters: of the whole, or of its only module."""
        self._parameters(("merge",), (*old, "parameters"), of_model=False)
        self._list(("merge", "models"), (*old, "models"), self._model)
        self._list(("merge", "slices"), (*old, "slices"), self._slice)

    def _modules(self) -> None:
        modules = self.file.value(("modules",))
        if modules is None:
            return
        if not isinstance(modules, Mapping) or len(modules) != 1:
            message = "a GGUF language model is one module"
            self.file.refuse(("modules",), message, "keep the text model, and write its models or slices at the top")
            return
        old = ("modules", next(iter(modules)))
        self._part(old)
        self._check_keys(old, ("models", "slices", "parameters"))

    def _list(self, new: KeyPath, old: KeyPath, each: Any) -> None:
        entries = self.file.value(old)
        if not isinstance(entries, list):
            self.file.move(new, old)  # the check of our own form says what is wrong
            return
        self.file.put(new, [{} for _ in entries], old)
        for index, entry in enumerate(entries):
            if isinstance(entry, Mapping):
                self.file.put((*new, index), {}, (*old, index))
                each((*new, index), (*old, index))
            else:
                hint = "write {model: PATH}" if isinstance(entry, str) else None
                self.file.refuse((*old, index), "must be a mapping", hint, of_value=True)

    def _slice(self, new: KeyPath, old: KeyPath) -> None:
        self._list((*new, "sources"), (*old, "sources"), self._source)
        self._parameters(new, (*old, "parameters"), of_model=False)
        self._check_keys(old, ("sources", "parameters"))

    def _source(self, new: KeyPath, old: KeyPath) -> None:
        self.file.names[dotted((*new, "layers"))] = dotted((*old, "layer_range"))
        self.file.move((*new, "layers"), (*old, "layer_range"))
        self._model(new, old, ("layer_range",))

    def _model(self, new: KeyPath, old: KeyPath, others: Sequence[str] = ()) -> None:
        self._reference(new, (*old, "model"))
        if self._is_base(self.file.value((*old, "model"))):
            if self.file.value((*old, "parameters")):
                self.notices.append(f"{dotted((*old, 'parameters'))} has no effect: this is the base")
        else:
            self._parameters(new, (*old, "parameters"), of_model=True)
        self._check_keys(old, ("model", "parameters", *others))

    def _is_base(self, reference: object) -> bool:
        """Whether this is the base of a method that subtracts it."""
        base = self.file.value(("base_model",))
        if not isinstance(reference, str) or not isinstance(base, str):
            return False
        is_subtracted = self.facts is not None and self.facts.over_base != "never"
        return is_subtracted and files_key(split_reference(reference)) == files_key(split_reference(base))

    def _reference(self, new: KeyPath, old: KeyPath) -> None:
        """A model by its path, with or without an adapter."""
        value = self.file.value(old)
        self.file.names[dotted((*new, "path"))] = self.file.names[dotted(new)] = dotted(old)
        if isinstance(value, Mapping):
            self.file.refuse(old, "must be text", "write PATH, or PATH+ADAPTER", of_value=True)
            value = "-"
        if value is None:
            return
        if new == ("merge", "base"):
            self.file.put(new, {}, old)
        parts = split_reference(value) if isinstance(value, str) else {"path": value}
        for key, part in parts.items():
            self.file.put((*new, key), part, old)

    def _parameters(self, new: KeyPath, old: KeyPath, *, of_model: bool) -> None:
        content = self.file.value(old)
        if content is None:
            return
        if not isinstance(content, Mapping):
            self.file.refuse(old, "must be a mapping", "such as {weight: 0.5}", of_value=True)
            return
        for name in content:
            self._parameter(new, (*old, name), of_model=of_model)

    def _parameter(self, new: KeyPath, old: KeyPath, *, of_model: bool) -> None:
        name, key, value = str(old[-1]), dotted(old), self.file.value(old)
        if name == "int8_mask":
            self.notices.append(f"{key} has no effect: masks take no memory here")
        elif name in _FIXED:
            if value != _FIXED[name]:
                self.file.refuse(old, f"is always {_FIXED[name]} here".replace("False", "false"), "remove it")
        elif name not in _PARAMETERS:
            self.file.refuse(old, "unknown parameter", _near(name, (*_PARAMETERS, *_FIXED, "int8_mask")))
        elif self._has_no_effect(_PARAMETERS[name], of_model=of_model):
            self.notices.append(f"{key} has no effect with {self.file.value(('merge_method',))} at this place")
        else:
            self.file.put((*new, _PARAMETERS[name]), _flag(value) if name in _FLAGS else value, old)

    def _has_no_effect(self, name: str, *, of_model: bool) -> bool:
        if self.facts is None:
            return False
        field_name = "lambda_" if name == "lambda" else name
        return field_name not in self.facts.takes or (of_model and field_name not in MODEL_KEYS)

    def _tokenizer(self) -> None:
        file = self.file
        old: KeyPath = ("tokenizer_source",)
        if isinstance(file.value(("tokenizer",)), Mapping):
            old = ("tokenizer", "source")
            self._check_keys(("tokenizer",), ("source",))
        elif file.value(("tokenizer",)) is not None:
            file.refuse(("tokenizer",), "must be a mapping", "such as {source: union}", of_value=True)
        value = file.value(old)
        if value is None:
            return
        name = str(value).removeprefix("model:")
        if name == str(file.value(("base_model",))):
            value = "base"
        if value not in ("union", "base"):
            hint = "name that model as base_model, or write union or base"
            file.refuse(
                old, f"value {value!r}; the tokenizer of a single model is that of the base", hint, of_value=True
            )
            return
        file.put(("merge", "tokenizer"), value, old)

    def _type(self) -> None:
        """The type that is written; merges are computed in float32 whatever is said."""
        file = self.file
        for key in ("dtype", "out_dtype"):
            value = file.value((key,))
            if value is not None and value not in _TYPES:
                near = get_close_matches(str(value), list(_TYPES), n=1)
                message = f"value {value!r}; must be one of {', '.join(_TYPES)}"
                file.refuse((key,), message, f"did you mean {near[0]}?" if near else None, of_value=True)
        key = "dtype" if file.value(("out_dtype",)) is None else "out_dtype"
        value, output = file.value((key,)), file.value(("output",))
        if value not in _TYPES or (isinstance(output, Mapping) and output.get("type") is not None):
            return
        if not isinstance(output, Mapping):
            file.put(("output",), {}, (key,))
        file.put(("output", "type"), _TYPES[value], (key,))

    def _check_keys(self, old: KeyPath, known: Sequence[str]) -> None:
        content = self.file.value(old)
        for key in content if isinstance(content, Mapping) else ():
            if key in _UNAVAILABLE:
                self.file.refuse((*old, key), "is not available", _UNAVAILABLE[key])
            elif key not in known:
                self.file.refuse((*old, key), "unknown key", _near(key, known))


def _flag(value: object) -> object:
    """mergekit takes 0 and 1 for truth values."""
    return bool(value) if isinstance(value, (int, float)) and value in (0, 1) else value


def _near(word: str, known: Sequence[str] | Mapping[str, str]) -> str:
    near = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
