"""One configuration from several files: ``base:`` names a parent, ``include:`` files that are shared.

The parent is the lowest layer, the included files lie above it in their order, the keys of the file itself on top.
Sections are merged key by key, at any depth; lists and single values are replaced. Every value keeps its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path as FilePath
from typing import Any

from entrenar_core.config.base import KeyPath, dotted
from entrenar_core.config.describe import show_value
from entrenar_core.config.problem import ConfigProblems, Problem
from entrenar_core.config.yaml_places import Order, Place, Source
from entrenar_core.config.yaml_source import OF_TRAINING, Sections, read_file, read_text
from entrenar_core.errors import ConfigError

COMPOSING_KEYS = ("base", "include")
MAX_FILES = 100


def read_composed(path: FilePath, environ: Mapping[str, str] | None = None, needs: Sections = OF_TRAINING) -> Source:
    """A file with everything that it builds on, variables filled in, without `base` and `include`.

    Args:
        path: of the file.
        environ: what variables stand for; None: the environment of this process.
        needs: sections that it needs at least, for messages.

    Raises:
        ConfigError: the file itself cannot be read.
        ConfigProblems: a file is not YAML, cannot be read or includes itself, or a variable is not set.
    """
    return _finished(_Composer(environ), read_file(path, environ, needs=needs), path)


def compose_text(text: str, name: str, environ: Mapping[str, str] | None = None) -> Source:
    """Like `read_composed` for YAML in memory; the files that it names are relative to the folder of `name`."""
    return _finished(_Composer(environ), read_text(text, name, environ), FilePath(name))


def _finished(composer: _Composer, top: Source, path: FilePath) -> Source:
    composed = composer.layered(top, (path,))
    if composed.stopping:
        raise ConfigProblems([problem for _, problem in sorted(composed.stopping, key=lambda found: found[0])])
    return composed


class _Composer:
    """Reads files and lays them over each other; knows how many there are."""

    def __init__(self, environ: Mapping[str, str] | None) -> None:
        self.environ = environ
        self.files = 1

    def layered(self, top: Source, chain: tuple[FilePath, ...]) -> Source:
        """`top` over the files that it names; `chain` leads from the first file to this one."""
        layers: list[Source] = []
        wrong: list[tuple[Order, Problem]] = []
        for key in () if top.stopping else COMPOSING_KEYS:
            for path, name in _named_files(top, key, wrong):
                below = self._read(name, key, top.place(path, of_value=True), chain, wrong)
                layers += [] if below is None else [below]
        _remove(top, COMPOSING_KEYS)
        top.stopping += wrong
        result = Source(top.name, {}, top.number)
        for layer in (*layers, top):
            _lay_over(result, layer)
        return result

    def _read(
        self, name: str, key: str, place: Place, chain: tuple[FilePath, ...], wrong: list[tuple[Order, Problem]]
    ) -> Source | None:
        """One named file with what it builds on; None and an entry in `wrong` if it cannot be used."""
        path = chain[-1].parent / name
        self.files += 1
        problem = _cycle(path, chain)
        if problem is None and self.files > MAX_FILES:
            problem = (f"more than {MAX_FILES} files are put together", "write the values out")
        if problem is None:
            try:
                return self.layered(read_file(path, self.environ, number=self.files), (*chain, path))
            except ConfigProblems:
                raise
            except ConfigError as error:
                problem = (f"{error.where}: {error.message}", error.hint)
        wrong.append((place.order, Problem(place.where, key, *problem)))
        return None


def _named_files(source: Source, key: str, wrong: list[tuple[Order, Problem]]) -> Iterator[tuple[KeyPath, str]]:
    """The files under `base` or `include`, each with the place of its name."""
    value = source.data.get(key)
    is_list = key == "include" and isinstance(value, list)
    entries: list[Any] = list(value or ()) if is_list else [] if value is None else [value]
    for index, name in enumerate(entries):
        path: KeyPath = (key, index) if is_list else (key,)
        if isinstance(name, str) and name:
            yield path, name
        else:
            place = source.place(path, of_value=True)
            wrong.append((place.order, Problem(place.where, dotted(path), *_not_a_file(key, name, place))))


def _not_a_file(key: str, value: object, place: Place) -> tuple[str, str | None]:
    allowed = "the path of a YAML file" if key == "base" else "the path of a YAML file, or a list of paths"
    hint = "use include for several files" if key == "base" and isinstance(value, list) else None
    return f"value {show_value(value, place.text)}; must be {allowed}", hint


def _cycle(path: FilePath, chain: tuple[FilePath, ...]) -> tuple[str, str | None] | None:
    """What is wrong with reading `path` again while the files of `chain` are being read."""
    try:
        real = path.resolve()
    except RuntimeError:
        return f"{path} is a link that leads back to itself", "let the link lead to a YAML file"
    for earlier in chain:
        if earlier.resolve() == real:
            links = " -> ".join(map(str, (*chain, earlier)))
            return f"the files include each other: {links}", "remove one of these links"
    return None


def _remove(source: Source, keys: tuple[str, ...]) -> None:
    for key in keys:
        source.data.pop(key, None)
        source.forget((key,))


def _lay_over(result: Source, layer: Source) -> None:
    """Put the values, places and problems of `layer` on top of `result`."""
    result.data = _merged(result, layer.data, result.data, ())
    result.keys.update(layer.keys)
    result.values.update(layer.values)
    result.problems += layer.problems
    result.stopping += layer.stopping


def _merged(result: Source, above: Mapping[str, Any], below: Mapping[str, Any], path: KeyPath) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        here, lower = (*path, key), merged.get(key)
        if isinstance(value, dict) and isinstance(lower, dict):
            merged[key] = _merged(result, value, lower, here)
        else:
            result.forget(here)
            merged[key] = value
    return merged
