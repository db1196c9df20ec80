"""Writes docs/config.md, the reference of the YAML, from the schema itself: `python docs/make_config_reference.py`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic.fields import FieldInfo

from entrenar_core.config.base import Available, Section, entry_section, key_of, nested_section
from entrenar_core.config.describe import allowed_words
from entrenar_core.config.merge_file import MergeConfig, Merging
from entrenar_core.config.merge_parameters import MODEL_KEYS, TENSOR_KEYS, ModelParameters
from entrenar_core.config.quantize import Quantize
from entrenar_core.config.quantize_file import QuantizeConfig, Running
from entrenar_core.config.roles import TASK_ROLES
from entrenar_core.config.root import Config

MEBIBYTE = 1 << 20
PARAMETERS = (*MODEL_KEYS, *TENSOR_KEYS)
"""Those of a merge, which are explained once."""

TARGET = Path(__file__).with_name("config.md")

HEAD = """\
# The YAML, key by key

Written by `python docs/make_config_reference.py` from the schema that checks your file; do not edit it by hand.

Scalars follow YAML 1.2: `1e-4` is a number, `on` and `no` are text. Words such as `adamw` or `TIES` may be written in
any case. An unknown key is an error with its line and column and the nearest known key.
`entrenar train FILE --set section.key=value` overrides a key. Paths of models and data are relative to the folder you
run the command in.

`entrenar schema --output entrenar.schema.json` writes the JSON Schema of this page. With the line
`# yaml-language-server: $schema=entrenar.schema.json` at its top, an editor completes and checks the file.

## One configuration from several files

```yaml
base: shared/llama.yaml            # one parent, the lowest layer
include: [lora.yaml, data.yaml]    # files above it, the last one on top
data:
  batch_size: 4                    # the keys of the file itself lie over all of them
lora: null                         # takes a section of the files below away
```

Sections are merged key by key, at any depth; lists and single values are replaced. Names are relative to the file that
names them, and the named files may name others. `--set` and the checks see the result; a message names the file that a
value came from. `base` and `include` stand at the top of a file, not in a section.

## Variables

`${NAME}` in a value is replaced by the environment variable, `${NAME:-default}` by the default where the variable is
not set or empty. A value that is one variable and nothing else is read like a plain scalar: `lr: ${LR}` is a number.
Between `{ }` and `[ ]` it stands in quotes: `optimizer: {lr: "${LR}"}`. `$${` is the text `${`. The resolved
configuration in the output folder holds the values, so do not put secrets there.

## Ludwig's form

For classification and regression, one text input and one output may be written as Ludwig has them:

```yaml
input_features: [{name: review, type: text}]
output_features: [{name: stars, type: category}]    # category or binary: classification; number: regression
```

This says the same as `data: {task: classification, columns: {text: review, label: stars}}`. A `column` beside `name`
is the column to read. Other keys and types of features are refused.

## Tasks and their columns

`data.task` and the roles under `data.columns` are inferred from the data unless they are set.
"""


QUANTIZING = """
# The YAML of `entrenar quantize`

`entrenar quantize FILE.yaml` reads a file of its own: `model`, the section `quantize` as above (its `stage` and `qat`
are for training), `output` and `run`. Options lie over it; [quantize.md](quantize.md) has an example.
`entrenar schema quantize` writes its JSON Schema. `base`, `include` and variables work as in a training run.
"""


MERGING = """
# The YAML of `entrenar merge`

`entrenar merge FILE.yaml` reads a file of its own, or one of mergekit as it is; [merge.md](merge.md) explains both.
Options lie over it. `entrenar schema merge` writes the JSON Schema of our form. `base`, `include` and variables work as
in a training run. A parameter is a number, a list of numbers over the layers, or values by names of tensors:
`weight: [{filter: mlp, value: [0, 1]}, {value: 0.5}]`. It stands at a model, at a slice, or in `merge` for all; the
nearest one counts.
"""


def roles_table() -> Iterator[str]:
    """Which columns each task has."""
    yield "\n| task | columns | optional |\n|---|---|---|"
    for task, roles in TASK_ROLES.items():
        yield f"| `{task}` | {_codes(roles.required)} | {_codes(roles.optional)} |"


def _codes(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def default_text(field: FieldInfo) -> str:
    """The default as YAML would spell it; empty where the description says it, or for a required key."""
    if field.is_required():
        return "required"
    value = field.default
    if field.default_factory is not None or value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(str(item) for item in value) + "]"
    if isinstance(value, int) and value >= MEBIBYTE:
        return f"{value // MEBIBYTE}MiB"
    return repr(value).replace("'", '"') if isinstance(value, str) and not value.isalnum() else str(value)


def tables(section: type[Section], name: str) -> Iterator[str]:
    """The table of a section, then those of the sections inside it and of the entries of its lists."""
    yield f"\n## {name}\n\n{(section.__doc__ or '').splitlines()[0]}\n\n| key | default | meaning |\n|---|---|---|"
    inner: list[tuple[type[Section], str]] = []
    repeated: list[str] = []
    for field_name, field in section.model_fields.items():
        key = key_of(field_name, field)
        if issubclass(section, ModelParameters) and section is not Merging and field_name in PARAMETERS:
            repeated.append(key)
            continue
        nested, entry = nested_section(field), entry_section(field)
        if nested is not None:
            inner.append((nested, f"{name}.{key}"))
        if entry is not None and entry not in (known for known, _ in inner):
            inner.append((entry, f"{name}.{key}[]"))
        default = default_text(field)
        shown = f"`{default}`" if default and default != "required" else default
        yield f"| `{key}` | {shown} | {field.description}{_not_yet(field)} |"
    if repeated:
        yield f"\nBeside these, parameters as in `merge`: {_codes(repeated)}."
    for inner_section, path in inner:
        yield from tables(inner_section, path)


def _not_yet(field: FieldInfo) -> str:
    """The words that are known, and those that this release can work with."""
    words = allowed_words(field)
    available = next((mark.words for mark in field.metadata if isinstance(mark, Available)), ())
    if not words:
        return ""
    only = f"; in this release only {_codes(available)}" if available else ""
    return f" ({_codes(words)}{only})"


def reference() -> str:
    """The whole page."""
    lines = [HEAD.rstrip(), *roles_table(), "\n`version: 1` may stand at the top."]
    for key, field in Config.model_fields.items():
        section = nested_section(field)
        if section is not None:
            lines.extend(tables(section, key))
    lines.append(QUANTIZING.rstrip())
    for key, field in QuantizeConfig.model_fields.items():
        section = nested_section(field)
        if section is not None and section is not Quantize:
            lines.extend(tables(section, f"{key} (entrenar quantize)"))
    lines.append(MERGING.rstrip())
    for key, field in MergeConfig.model_fields.items():
        section = nested_section(field)
        if section is not None and section is not Running:
            lines.extend(tables(section, f"{key} (entrenar merge)"))
    lines.append("\n`run` is that of `entrenar quantize`.")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    TARGET.write_text(reference())
