"""The tokenizer of a model: text to ids as llama.cpp gives them, ids to text, text piece by piece while generating.

`encode` cuts out special tokens, hands the text between them to the Rust tokenizer of the model (`bpe.py`, `spm.py`)
and joins the ids. `encode_batch` gives Rust all texts at once; it spreads them over threads (as many as the environment
variable RAYON_NUM_THREADS says, else one per core) and starts no process.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from entrenar_core.errors import TokenizerError
from entrenar_core.tokenizer.special_split import Cut, SpecialSplitter
from entrenar_core.tokenizer.vocabulary import TokenKind, Vocabulary

_NOT_SHOWN = (TokenKind.CONTROL, TokenKind.UNKNOWN)


class SubwordModel(Protocol):
    """What `Tokenizer` needs to know of a sub-word model."""

    rust: Any
    """A `tokenizers.Tokenizer` without special tokens."""

    def prepared(self, text: str, *, after_special: bool) -> str:
        """`text` as tokens spell it; `after_special`: nothing or a special token stands before."""
        ...

    def jobs(self, text: str) -> list[str | list[int]]:
        """A prepared text as strings for `rust` and ready ids, in order."""
        ...

    def covered_bytes(self, token_id: int) -> int:
        """How many bytes of a prepared text a token made from it stands for."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """The text of a token in UTF-8."""
        ...


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a rendered chat and its tokens: one special token, or text that was encoded as a whole.

    Attributes:
        begin, end: characters of the chat.
        ids: its tokens.
        prepared: the text that the sub-word model saw; it ends with the characters of the stretch, one for one, and may
            have one more in front. None for a special token.
    """

    begin: int
    end: int
    ids: list[int]
    prepared: str | None


class Tokenizer:
    """Made by `tokenizer_from_metadata`.

    Attributes:
        vocab_size: number of tokens, V.
        bos_id, eos_id, pad_id: None where the model has none.
        add_bos, add_eos: what `add_special` adds.
        stop_ids: ids that end a generation (end of text, of turn, of message).
        strips_leading_space: `encode` puts a space in front of a text and `decode` takes it away.
    """

    def __init__(self, vocabulary: Vocabulary, model: SubwordModel, *, strips_leading_space: bool) -> None:
        self._vocabulary = vocabulary
        self._model = model
        self._splitter = SpecialSplitter(vocabulary)
        self._bytes_of: dict[tuple[int, bool], bytes] = {}
        self._covered: dict[int, int] = {}
        self.strips_leading_space = strips_leading_space
        self.vocab_size = len(vocabulary.tokens)
        self.bos_id = vocabulary.bos_id
        self.eos_id = vocabulary.eos_id
        self.pad_id = vocabulary.pad_id
        self.add_bos = vocabulary.add_bos
        self.add_eos = vocabulary.add_eos
        self.stop_ids = vocabulary.stop_ids

    def encode(
        self, text: str, *, add_special: bool = False, parse_special: bool = False, continues: bool = False
    ) -> list[int]:
        """The ids of `text`.

        Args:
            text: any text without lone surrogates.
            add_special: add BOS in front and EOS at the end, as the model wants.
            parse_special: recognise control tokens in `text`; for templates only, never for text of a user.
            continues: `text` goes on from other text, so no space is put in front of it.

        Raises:
            TokenizerError: `text` is not valid Unicode.
        """
        batch = self.encode_batch([text], add_special=add_special, parse_special=parse_special, continues=continues)
        return batch[0]

    def encode_batch(
        self, texts: Sequence[str], *, add_special: bool = False, parse_special: bool = False, continues: bool = False
    ) -> list[list[int]]:
        """`encode` of every text, in threads."""
        plans = [self._plan(text, parse_special=parse_special, continues=continues) for text in texts]
        before, after = self._frame() if add_special else ([], [])
        return [before + ids + after for ids in self._run(plans)]

    def encode_chats(self, chats: Sequence[tuple[str, bytes]]) -> list[list[Piece]]:
        """The pieces of rendered chats, each with its tokens, in threads.

        Args:
            chats: each a text and, for each of its characters, 1 where it came from the data (no control token is
                recognised there, as in `encode` without `parse_special`) and 0 where a template wrote it.

        Raises:
            TokenizerError: a text is not valid Unicode.
        """
        cut = [self._splitter.cuts(text, data) for text, data in chats]
        prepared = [self._prepared(text, cuts) for (text, _), cuts in zip(chats, cut, strict=True)]
        encoded = self._run([self._model.jobs(text) for texts in prepared for text in texts if text is not None])
        return [
            [
                Piece(begin, end, next(encoded) if token_id is None else [token_id], source)
                for (begin, end, token_id), source in zip(cuts, sources, strict=True)
            ]
            for cuts, sources in zip(cut, prepared, strict=True)
        ]

    def covered_bytes(self, ids: Sequence[int]) -> list[int]:
        """How many bytes of `Piece.prepared` each token of the piece stands for."""
        known = self._covered
        known.update((token_id, self._model.covered_bytes(token_id)) for token_id in set(ids).difference(known))
        return [known[token_id] for token_id in ids]

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """The text of `ids`; bytes that are no UTF-8 become U+FFFD.

        Args:
            ids: token ids.
            skip_special: leave out control and unknown tokens.

        Raises:
            TokenizerError: an id is outside the vocabulary.
        """
        decoder = self.stream_decoder(at_start=True, skip_special=skip_special)
        return "".join(map(decoder.push, ids)) + decoder.finish()

    def stream_decoder(self, *, at_start: bool = False, skip_special: bool = True) -> StreamDecoder:
        """Text token by token. `at_start`: the first token begins a text, so the space `encode` added is dropped."""
        return StreamDecoder(self, drop_space=at_start and self.strips_leading_space, skip_special=skip_special)

    def token_bytes(self, token_id: int, *, skip_special: bool = True) -> bytes:
        """The bytes a token stands for; none for a control token when these are skipped."""
        key = (token_id, skip_special)
        if key not in self._bytes_of:
            self._check_id(token_id)
            hidden = skip_special and self._vocabulary.kinds[token_id] in _NOT_SHOWN
            self._bytes_of[key] = b"" if hidden else self._model.token_bytes(token_id)
        return self._bytes_of[key]

    def token_text(self, token_id: int) -> str:
        """The token as the vocabulary spells it, e.g. `<|im_end|>`."""
        self._check_id(token_id)
        return self._vocabulary.tokens[token_id]

    def token_id(self, text: str) -> int | None:
        """The id of the token that the vocabulary spells `text`."""
        return self._vocabulary.ids.get(text)

    def _frame(self) -> tuple[list[int], list[int]]:
        """What the model wants in front of a text and after it."""
        before = [self.bos_id] if self.add_bos and self.bos_id is not None else []
        after = [self.eos_id] if self.add_eos and self.eos_id is not None else []
        return before, after

    def _plan(self, text: str, *, parse_special: bool, continues: bool) -> list[str | list[int]]:
        plan: list[str | list[int]] = []
        after_special = not continues
        for piece in self._splitter.split(text, parse_special=parse_special):
            if isinstance(piece, int):
                plan.append([piece])
            else:
                plan.extend(self._model.jobs(self._model.prepared(piece, after_special=after_special)))
            after_special = isinstance(piece, int)
        return plan

    def _prepared(self, text: str, cuts: Sequence[Cut]) -> list[str | None]:
        """What the sub-word model gets to see of each cut; None for special tokens."""
        sources: list[str | None] = []
        after_special = True
        for begin, end, token_id in cuts:
            is_text = token_id is None
            sources.append(self._model.prepared(text[begin:end], after_special=after_special) if is_text else None)
            after_special = not is_text
        return sources

    def _run(self, plans: Sequence[Sequence[str | list[int]]]) -> Iterator[list[int]]:
        """The ids of each plan; all strings go to Rust at once."""
        strings = [job for plan in plans for job in plan if isinstance(job, str)]
        encoded = (encoding.ids for encoding in self._encode_strings(strings))
        for plan in plans:
            ids: list[int] = []
            for job in plan:
                ids += next(encoded) if isinstance(job, str) else job
            yield ids

    def _encode_strings(self, strings: list[str]) -> list[Any]:
        rust = self._model.rust
        try:
            if len(strings) == 1:
                return [rust.encode(strings[0], add_special_tokens=False)]
            return rust.encode_batch_fast(strings, add_special_tokens=False)
        except (TypeError, UnicodeEncodeError) as error:
            _refuse_surrogates(strings, error)
            raise

    def _check_id(self, token_id: int) -> None:
        if not 0 <= token_id < self.vocab_size:
            raise TokenizerError(
                f"token id {token_id} is outside the vocabulary of {self.vocab_size} tokens",
                where=self._vocabulary.source,
            )


class StreamDecoder:
    """Turns ids into text as they come; the bytes of an unfinished character are held back."""

    def __init__(self, tokenizer: Tokenizer, *, drop_space: bool, skip_special: bool) -> None:
        self._tokenizer = tokenizer
        self._drop_space = drop_space
        self._skip_special = skip_special
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        """The text that is complete after `token_id`; may be empty."""
        data = self._tokenizer.token_bytes(token_id, skip_special=self._skip_special)
        if data and self._drop_space:
            self._drop_space = False
            data = data.removeprefix(b" ")
        return self._utf8.decode(data)

    def finish(self) -> str:
        """What is still held back, as U+FFFD; the decoder can then start anew."""
        return self._utf8.decode(b"", final=True)


def _refuse_surrogates(strings: list[str], cause: Exception) -> None:
    for text in strings:
        for position, character in enumerate(text):
            if "\ud800" <= character <= "\udfff":
                raise TokenizerError(
                    f"the text holds half of a surrogate pair, U+{ord(character):04X}, at position {position}",
                    hint="repair the text: it is no valid Unicode",
                ) from cause
