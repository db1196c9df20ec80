"""The one door for data that fit on the disk as tokens: opened sources in, tokenized examples out.

It streams the rows of all sources through their encoders, and says what was cut and refused; data that leave nothing to
learn are an error. Large data are kept in the token cache and mapped from there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from entrenar_core.data.cache import WORTH_CACHING, CachedData, TokenCache, cache_key
from entrenar_core.data.encode import REFUSED_NO_TARGET, REFUSED_TOO_LONG, ExampleBuilder
from entrenar_core.data.encoders import Encoding
from entrenar_core.data.examples import Examples, ExampleStats, ExampleStore
from entrenar_core.data.opening import OpenedSource
from entrenar_core.errors import DataError
from entrenar_core.events import Notice, Progress, Reporter


@dataclass(frozen=True)
class DataSet:
    """Tokenized examples of some sources, one source after the other.

    Attributes:
        examples: those of the set, and maybe others.
        bounds: int64 [sources + 1]; source i has the members bounds[i] to bounds[i + 1] of the set.
        weights: how often each source's examples come in an epoch.
        indices: int64, ascending, the members among `examples`; None: all of them.
    """

    examples: Examples
    bounds: npt.NDArray[np.int64]
    weights: tuple[float, ...]
    indices: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return int(self.bounds[-1])

    def members(self) -> npt.NDArray[np.int64]:
        """int64 [len]: where the set's examples lie."""
        return np.arange(len(self.examples)) if self.indices is None else self.indices

    def digest(self) -> str:
        """A hex hash: equal exactly when two sets train the same."""
        whole = self.examples.digest()
        if self.indices is None:
            return whole
        return hashlib.blake2b(whole.encode() + self.indices.tobytes(), digest_size=16).hexdigest()

    def counts(self) -> npt.NDArray[np.float64]:
        """Examples, positions and targets of one epoch: float64 [3]."""
        members = self.members()
        weights = np.repeat(self.weights, np.diff(self.bounds))
        lengths = self.examples.lengths[members]
        targets = np.add.reduceat(self.examples.supervised, self.examples.offsets[:-1], dtype=np.int64)[members]
        return np.array([weights.sum(), (weights * lengths).sum(), (weights * targets).sum()])


def load_data(
    sources: Sequence[OpenedSource],
    encoding: Encoding,
    cache: TokenCache | None,
    tokenizer_digest: str,
    reporter: Reporter,
) -> DataSet:
    """Tokenize all rows of `sources`, or find them in the cache.

    Args:
        sources: of data.train or data.val.
        encoding: how rows become tokens.
        cache: where large data are kept; None: nowhere, they stay in memory.
        tokenizer_digest: a hash of the tokenizer, for the cache's key.
        reporter: hears the progress in rows, and what was refused, cut or split.

    Raises:
        DataError: rows cannot be used, or no row has anything to learn.
        OutputError: the cache cannot be written.
    """
    where = ", ".join(one.source.name for one in sources)
    found = _find_or_make(sources, encoding, cache, tokenizer_digest, reporter)
    if len(found.examples) == 0:
        raise _nothing_left(found.examples.stats, where, found.notices)
    for message in found.notices:
        reporter.emit(Notice("warning", message))
    for notice in _notices(found.examples.stats, encoding.fmt.seq_len, where):
        reporter.emit(notice)
    bounds = np.concatenate(([0], np.cumsum(found.per_source))).astype(np.int64)
    return DataSet(found.examples, bounds, tuple(one.weight for one in sources))


def _find_or_make(
    sources: Sequence[OpenedSource],
    encoding: Encoding,
    cache: TokenCache | None,
    tokenizer_digest: str,
    reporter: Reporter,
) -> CachedData:
    if cache is None or sum(one.source.n_bytes for one in sources) < WORTH_CACHING:
        return _tokenize(sources, encoding, None, reporter)
    key = cache_key(_key_parts(sources, encoding, tokenizer_digest))
    found = cache.load(key)
    if found is not None:
        reporter.emit(Notice("info", f"tokens found in the cache: {cache.folder / key}"))
        return found
    with cache.new_entry(key) as temporary:
        if temporary is None:
            reporter.emit(Notice("warning", f"tokens are not cached: {cache.folder} cannot be written"))
        made = _tokenize(sources, encoding, temporary, reporter)
        if temporary is not None and len(made.examples):
            cache.keep(key, temporary, made)
    return made


def _key_parts(sources: Sequence[OpenedSource], encoding: Encoding, tokenizer_digest: str) -> dict[str, Any]:
    return {
        "sources": [[one.source.fingerprint(), str(one.task), dict(one.columns.columns)] for one in sources],
        "format": asdict(encoding.fmt),
        "template": None if encoding.template is None else [encoding.template.text, str(encoding.template.today)],
        "templated": sorted(encoding.templated),
        "labels": None if encoding.labels is None else asdict(encoding.labels),
        "tokenizer": tokenizer_digest,
    }


def _tokenize(
    sources: Sequence[OpenedSource], encoding: Encoding, folder: Path | None, reporter: Reporter
) -> CachedData:
    builder = ExampleBuilder(encoding.fmt.seq_len, encoding.fmt.overlong, ExampleStore(folder))
    per_source: list[int] = []
    notices: list[str] = []
    for one in sources:
        before = len(builder)
        notices += _add_source(one, encoding, builder, reporter)
        per_source.append(len(builder) - before)
    return CachedData(builder.finish(), tuple(per_source), tuple(notices))


def _add_source(one: OpenedSource, encoding: Encoding, builder: ExampleBuilder, reporter: Reporter) -> Sequence[str]:
    encoder = encoding.encoder(one.task, one.source.name)
    done = 0
    for rows, locate in one.read():
        builder.add(encoder.encode(rows, locate), encoder.default_overlong)
        done += len(next(iter(rows.values())))
        reporter.emit(Progress(f"tokenize {Path(one.source.name).name}", done, one.source.n_rows))
    return [notice_of(one.source.name, message) for message in encoder.notices]


def notice_of(source: str, message: str) -> str:
    """A notice of an encoder with the name of its source, which those about a row have already."""
    return message if message.startswith(source) else f"{source}: {message}"


def _nothing_left(stats: ExampleStats, where: str, notices: Sequence[str]) -> DataError:
    if stats.refused.get(REFUSED_TOO_LONG):
        hint = "raise data.seq_len, or set data.overlong to truncate or split"
    elif notices:
        hint = f"the first one: {notices[-1]}"
    elif stats.refused.get(REFUSED_NO_TARGET):
        hint = "the prompts fill the whole window: raise data.seq_len"
    else:
        hint = "check that the chosen columns hold the text"
    return DataError(
        f"there is nothing to learn from: all {stats.rows} rows were refused ({reasons(stats)})",
        where=where,
        hint=hint,
    )


def _notices(stats: ExampleStats, seq_len: int, where: str) -> Iterator[Notice]:
    refused = sum(stats.refused.values())
    if refused:
        yield Notice("warning", f"{where}: {refused} of {stats.rows} rows refused: {reasons(stats)}")
    long_rows = f"{where}: rows longer than seq_len {seq_len}: {stats.overlong_rows}"
    if stats.truncated_tokens:
        yield Notice("warning", f"{long_rows} cut, {stats.truncated_tokens} tokens at their ends are not trained")
    elif stats.overlong_rows:
        yield Notice("info", f"{long_rows} split into windows")


def reasons(stats: ExampleStats) -> str:
    """Why rows were refused, with their numbers."""
    return ", ".join(f"{count} {reason}" for reason, count in stats.refused.items())
