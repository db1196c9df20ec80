"""The JSON Schema of the YAML, by which editors complete and check it (draft 2020-12).

It is Pydantic's schema of `Config`, `QuantizeConfig` or `MergeConfig`, opened for what is allowed before the check:
names in any case, variables in place of values, empty sections, `base` and `include`, Ludwig's features. Keys that a
parent file may hold are required only in a file that has none. Conflicts between keys are not part of it; the check of
a file reports them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from entrenar_core.config.base import Path, Section, key_of, nested_section, schema_fields
from entrenar_core.config.compose import COMPOSING_KEYS
from entrenar_core.config.ludwig import FEATURE_KEYS, INPUT, INPUT_TYPES, OUTPUT, OUTPUT_TASKS
from entrenar_core.config.merge_file import MergeConfig
from entrenar_core.config.quantize_file import QuantizeConfig
from entrenar_core.config.root import MAY_BE_EMPTY, Config

Schema = dict[str, Any]
DIALECT = "https://json-schema.org/draft/2020-12/schema"
_NOTES = ("title", "description", "default")
_VARIABLE: Schema = {"$ref": "#/$defs/Variable"}
_FILE: Schema = {"type": "string", "minLength": 1}


def json_schema() -> Schema:
    """The schema of a training run as JSON values; a new copy at each call."""
    schema = _schema_of(Config, "entrenar configuration")
    properties = {**schema["properties"], **_features()}
    for key in MAY_BE_EMPTY:
        properties[key] = _with_alternative(properties[key], {"type": "null"})
    required = {**schema["then"], **_model_or_student(schema["then"]["required"])}
    return {
        **schema,
        "properties": properties,
        "then": required,
        "$defs": {**schema["$defs"], **_feature_definitions()},
    }


def _model_or_student(required: list[str]) -> Schema:
    """A run names a model, or makes one from a teacher."""
    student = {"required": ["distill"], "properties": {"distill": {"type": "object", "required": ["student"]}}}
    others = [key for key in required if key != "model"]
    return {"required": others, "anyOf": [{"required": ["model"]}, student]}


def quantize_schema() -> Schema:
    """The schema of a file of `entrenar quantize`."""
    return _schema_of(QuantizeConfig, "entrenar quantize")


def merge_schema() -> Schema:
    """The schema of a file of `entrenar merge`, in our own form; mergekit's is another."""
    return _schema_of(MergeConfig, "entrenar merge")


def _schema_of(root: type[Section], title: str) -> Schema:
    made = root.model_json_schema(by_alias=True)
    sections: Mapping[str, Schema] = made["$defs"]
    for part in (made, *sections.values()):
        part["properties"] = {key: _opened(value) for key, value in part["properties"].items()}
    for section in _required_by_place(root):
        (made if section is root else sections[section.__name__]).pop("required", None)
    return {
        "$schema": DIALECT,
        "title": title,
        "description": root.__doc__,
        "type": "object",
        "properties": {**made["properties"], **_composition()},
        "additionalProperties": False,
        "if": {"not": {"anyOf": [{"required": [key]} for key in COMPOSING_KEYS]}},
        "then": _requirements(root),
        "$defs": {**sections, "Variable": _variable()},
    }


def _variable() -> Schema:
    return {
        "title": "Environment variable",
        "description": "${NAME} or ${NAME:-default}",
        "type": "string",
        "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}",
    }


def _opened(schema: Schema) -> Schema:
    """The schema of a key, with variables wherever a value is no text, and words in any case."""
    notes = {key: value for key, value in schema.items() if key in _NOTES}
    alternatives = [_any_case(one) for one in _alternatives(schema)]
    if any(_refuses_text(one) for one in alternatives):
        alternatives.append(_VARIABLE)
    return {**notes, **_one_of(alternatives)}


def _alternatives(schema: Schema) -> Iterator[Schema]:
    """The ways to write a value, each without title, description and default; lists with their entries opened."""
    for one in schema.get("anyOf", [schema]):
        plain = {key: value for key, value in one.items() if key not in _NOTES}
        if isinstance(plain.get("items"), dict):
            plain["items"] = _opened(plain["items"])
        if "prefixItems" in plain:
            plain["prefixItems"] = [_opened(entry) for entry in plain["prefixItems"]]
        yield plain


def _any_case(schema: Schema) -> Schema:
    """Words are completed in lower case and accepted in any."""
    words = schema.get("enum", [schema["const"]] if "const" in schema else [])
    if not words or not all(isinstance(word, str) for word in words):
        return schema
    pattern = "|".join("".join(_either_case(letter) for letter in word) for word in words)
    return {"anyOf": [{"enum": list(words)}, {"type": "string", "pattern": f"^({pattern})$"}]}


def _either_case(letter: str) -> str:
    return f"[{letter}{letter.upper()}]" if letter.isalpha() else letter


def _refuses_text(schema: Schema) -> bool:
    """Whether a variable, which is text in YAML, needs an alternative of its own beside this one."""
    kind = schema.get("type")
    return kind in ("integer", "number", "boolean") or "anyOf" in schema or "const" in schema or "enum" in schema


def _one_of(alternatives: list[Schema]) -> Schema:
    flat = [inner for one in alternatives for inner in (one["anyOf"] if set(one) == {"anyOf"} else [one])]
    return flat[0] if len(flat) == 1 else {"anyOf": flat}


def _with_alternative(schema: Schema, alternative: Schema) -> Schema:
    notes = {key: value for key, value in schema.items() if key in _NOTES}
    plain = {key: value for key, value in schema.items() if key not in _NOTES}
    return {**notes, **_one_of([plain, alternative])}


def _composition() -> Schema:
    return {
        "base": {"title": "Base", "description": "a YAML file whose keys this one changes", **_FILE},
        "include": {
            "title": "Include",
            "description": "YAML files whose sections are merged below the keys of this one, the last on top",
            "anyOf": [_FILE, {"type": "array", "items": _FILE}],
        },
    }


def _features() -> Schema:
    entry = {"type": "array", "minItems": 1, "maxItems": 1}
    return {
        INPUT: {
            "title": "Input features",
            "description": "Ludwig's form of data.columns: the column of the text",
            **entry,
            "items": {"$ref": "#/$defs/InputFeature"},
        },
        OUTPUT: {
            "title": "Output features",
            "description": "Ludwig's form of data.task and data.columns: the column that is predicted",
            **entry,
            "items": {"$ref": "#/$defs/OutputFeature"},
        },
    }


def _feature_definitions() -> Schema:
    def feature(title: str, types: tuple[str, ...]) -> Schema:
        column = {"type": "string", "minLength": 1}
        notes = {"description": "what the column holds"}
        return {
            "title": title,
            "type": "object",
            "properties": {
                key: {**notes, **_any_case({"enum": list(types)})} if key == "type" else column for key in FEATURE_KEYS
            },
            "required": ["name", "type"],
            "additionalProperties": False,
        }

    return {
        "InputFeature": feature("Input feature", INPUT_TYPES),
        "OutputFeature": feature("Output feature", tuple(OUTPUT_TASKS)),
    }


def _required_by_place(root: type[Section]) -> dict[type[Section], Path]:
    """Sections that may be spread over files: where each stands. Entries of lists are not: a list is replaced."""
    nested = {section: path for path, field in schema_fields(root) if (section := nested_section(field)) is not None}
    return {root: (), **nested}


def _requirements(root: type[Section]) -> Schema:
    """What a file without a parent must hold, section by section."""
    demands: Schema = {}
    for section, path in _required_by_place(root).items():
        required = [key_of(name, field) for name, field in section.model_fields.items() if field.is_required()]
        if not required:
            continue
        inner = demands
        for key in path:
            inner = inner.setdefault("properties", {}).setdefault(key, {})
        inner["required"] = required
    return demands
