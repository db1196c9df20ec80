"""Chat templates of a Hugging Face folder, as GGUF keys. They are only carried over: nothing is rendered here."""

from __future__ import annotations

import re
from pathlib import Path

from entrenar_core.errors import FormatError
from entrenar_core.gguf.keys import CHAT_TEMPLATE, CHAT_TEMPLATES, chat_template_key
from entrenar_core.gguf.values import MetadataValue, ValueType
from entrenar_core.hugging_face.json_object import JsonObject

Entries = list[tuple[str, MetadataValue]]

TEMPLATE_FILE, MORE_TEMPLATES = "chat_template.jinja", "additional_chat_templates"
_DEFAULT = "default"
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9]")


def read_chat_templates(folder: Path, settings: JsonObject) -> Entries:
    """The unnamed template, and named ones with their list.

    Args:
        folder: may hold templates as files, which go before those of `settings`.
        settings: tokenizer_config.json.

    Raises:
        FormatError: a template is no text.
    """
    templates = {**_in_settings(settings), **_in_files(folder)}
    entries: Entries = []
    if _DEFAULT in templates:
        entries.append((CHAT_TEMPLATE, MetadataValue.string(templates.pop(_DEFAULT))))
    named = {_NOT_IN_NAMES.sub("_", name): text for name, text in templates.items()}
    if named:
        entries.append((CHAT_TEMPLATES, MetadataValue.array(ValueType.STRING, list(named))))
    return [*entries, *((chat_template_key(name), MetadataValue.string(text)) for name, text in named.items())]


def _in_settings(settings: JsonObject) -> dict[str, str]:
    value = settings.get("chat_template", [])
    if isinstance(value, str):
        return {_DEFAULT: value}
    templates: dict[str, str] = {}
    for entry in settings.items_of("chat_template"):
        one = JsonObject(entry if isinstance(entry, dict) else {}, f"{settings.where}: chat_template")
        templates[one.text("name")] = one.text("template")
    return templates


def _in_files(folder: Path) -> dict[str, str]:
    paths = {_DEFAULT: folder / TEMPLATE_FILE}
    paths.update((path.stem, path) for path in sorted((folder / MORE_TEMPLATES).glob("*.jinja")))
    return {name: _read(path) for name, path in paths.items() if path.is_file()}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"the template cannot be read: {error}", where=str(path)) from error
