"""The chat template of a model: which one is meant, and conversations rendered with it.

A template is a Jinja program that comes with the model (`tokenizer.chat_template`), is built in, or is given by the
user. It runs in a sandbox (`template_sandbox.py`), and what it writes is what transformers writes.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from datetime import date
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from entrenar_core.errors import TokenizerError
from entrenar_core.gguf.keys import CHAT_TEMPLATE, chat_template_key
from entrenar_core.tokenizer.builtin_templates import BUILTIN_TEMPLATES, template_for_stops
from entrenar_core.tokenizer.chat_marks import plain
from entrenar_core.tokenizer.tokenizer import Tokenizer

DEFAULT_NAME = "default"
LARGEST_TEMPLATE = 1 << 20
"""Characters of a template; real ones have fewer than 20,000."""
TRAINING_DATE = date(2026, 1, 1)
"""What templates that ask for the date are told. Any date would do, but not another one each day: tokens, and with them
the token cache and the resumption of a run, depend on it."""
_FILE_ENDINGS = (".jinja", ".jinja2", ".j2")
_WRONG_AT_RUN_TIME = (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError)


class TemplateRefusal(TokenizerError):
    """A template cannot render a conversation, or refuses to; `by_author`: it says so itself with raise_exception."""

    def __init__(self, message: str, *, where: str, by_author: bool) -> None:
        super().__init__(message, where=where)
        self.by_author = by_author


class ChatTemplate:
    """A compiled template; it renders one conversation at a time and can be pickled.

    Attributes:
        name: what the user calls it.
        text: the Jinja program.
        today: the date that the template is told.
    """

    def __init__(
        self,
        name: str,
        text: str,
        *,
        bos: str = "",
        eos: str = "",
        today: date = TRAINING_DATE,
        where: str | None = None,
    ) -> None:
        """Raises TokenizerError with the line of the first mistake in `text`; `where` is the file or key it is from."""
        self.name = name
        self.text = text
        self.today = today
        self._bos = bos
        self._eos = eos
        self._where = where or f"chat template {name}"
        self._sandbox, self._compiled = self._compile()

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (self.name, self.text, self._bos, self._eos, self.today, self._where)

    @property
    def asked_for_date(self) -> bool:
        """Whether the template asked for the date when it was last rendered."""
        return bool(self._sandbox.date.was_asked_for)

    def render(
        self,
        messages: Sequence[Mapping[str, object]],
        *,
        tools: Sequence[Mapping[str, object]] | None = None,
        add_generation_prompt: bool = False,
    ) -> str:
        """The text of a conversation.

        Args:
            messages: role, content and whatever else the template reads.
            tools: JSON schemas of functions that the assistant may call.
            add_generation_prompt: end with what comes before an answer of the assistant.

        Raises:
            TemplateRefusal: the template raised an error, or went beyond a limit.
        """
        text = self.render_marked(messages, tools=tools, add_generation_prompt=add_generation_prompt)
        return plain(text)

    def render_marked(
        self,
        messages: Sequence[Mapping[str, object]],
        *,
        tools: Sequence[Mapping[str, object]] | None = None,
        add_generation_prompt: bool = False,
    ) -> str:
        """`render`; where texts in the arguments are `chat_marks.Marked`, the result is too."""
        from jinja2 import TemplateError

        self._sandbox.budget.renew()
        self._sandbox.date.was_asked_for = False
        try:
            return self._compiled.render(
                messages=messages,
                tools=tools,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                bos_token=self._bos,
                eos_token=self._eos,
            )
        except TemplateError as error:
            raise self._refusal(error, by_author=type(error) is TemplateError) from error
        except _WRONG_AT_RUN_TIME as error:
            raise self._refusal(error, by_author=False) from error

    def _compile(self) -> tuple[Any, Any]:
        from jinja2 import TemplateError, TemplateSyntaxError

        from entrenar_core.tokenizer.template_sandbox import compile_template

        if len(self.text) > LARGEST_TEMPLATE:
            raise TokenizerError(
                f"the chat template has {len(self.text)} characters, more than {LARGEST_TEMPLATE}", where=self._where
            )
        try:
            return compile_template(self.text, self.today)
        except TemplateSyntaxError as error:
            raise TokenizerError(
                f"the chat template is broken: {error.message}", where=f"{self._where}: line {error.lineno}"
            ) from error
        except (TemplateError, RecursionError, SyntaxError, ValueError) as error:
            raise TokenizerError(f"the chat template cannot be compiled: {error}", where=self._where) from error

    def _refusal(self, error: Exception, *, by_author: bool) -> TemplateRefusal:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "<template>"]
        where = f"{self._where}: line {lines[-1]}" if lines else self._where
        message = str(error) or type(error).__name__
        return TemplateRefusal(message, where=where, by_author=by_author)


def _rebuilt(name: str, text: str, bos: str, eos: str, today: date, where: str) -> ChatTemplate:
    return ChatTemplate(name, text, bos=bos, eos=eos, today=today, where=where)


def choose_template(
    choice: str | None,
    metadata: Mapping[str, object],
    source: str,
    *,
    bos: str,
    eos: str,
    today: date = TRAINING_DATE,
) -> ChatTemplate:
    """The template that `data.chat_template` means.

    Args:
        choice: None for the model's own, the name of a built-in one or of one in the file, the path of a file, or the
            template itself.
        metadata: of the GGUF file.
        source: the GGUF file, for messages.
        bos, eos: the texts of these tokens; empty where the model has none.
        today: the date that the template is told.

    Raises:
        TokenizerError: there is no such template, or it is broken.
    """
    name, text, where = _find(choice, metadata, source)
    return ChatTemplate(name, text, bos=bos, eos=eos, today=today, where=where)


def template_for_vocabulary(tokenizer: Tokenizer) -> tuple[str, str] | None:
    """The first built-in template that ends turns with a stop token, and that token; None if there is none."""
    stops = {tokenizer.token_text(token_id) for token_id in tokenizer.stop_ids}
    return template_for_stops(stops, "" if tokenizer.eos_id is None else tokenizer.token_text(tokenizer.eos_id))


def template_names(metadata: Mapping[str, object]) -> list[str]:
    """The names of the templates in a GGUF file; the one without a name is called `default`."""
    prefix = chat_template_key("")
    names = [key.removeprefix(prefix) for key in metadata if key.startswith(prefix)]
    return ([DEFAULT_NAME] if CHAT_TEMPLATE in metadata else []) + sorted(names)


def _find(choice: str | None, metadata: Mapping[str, object], source: str) -> tuple[str, str, str]:
    """Name, text and place of the template."""
    if choice is None:
        return DEFAULT_NAME, _stored(metadata, CHAT_TEMPLATE, source), f"{source}: {CHAT_TEMPLATE}"
    if "{{" in choice or "{%" in choice:
        return "inline", choice, "data.chat_template"
    if choice.lower() in BUILTIN_TEMPLATES:
        return choice.lower(), BUILTIN_TEMPLATES[choice.lower()], f"built-in template {choice.lower()}"
    if choice in template_names(metadata):
        key = CHAT_TEMPLATE if choice == DEFAULT_NAME else chat_template_key(choice)
        return choice, _stored(metadata, key, source), f"{source}: {key}"
    if choice.endswith(_FILE_ENDINGS) or Path(choice).is_file():
        return Path(choice).name, _read(Path(choice)), choice
    raise _unknown(choice, metadata)


def _unknown(choice: str, metadata: Mapping[str, object]) -> TokenizerError:
    near = get_close_matches(choice, [*BUILTIN_TEMPLATES, *template_names(metadata)], n=1)
    advice = f"did you mean {near[0]}?" if near else "name a template or the path of a .jinja file;"
    return TokenizerError(
        f"there is no chat template {choice!r}", where="data.chat_template", hint=f"{advice} {_known(metadata)}"
    )


def _known(metadata: Mapping[str, object]) -> str:
    built_in = "built in: " + ", ".join(BUILTIN_TEMPLATES)
    names = template_names(metadata)
    return built_in + ("; in the model: " + ", ".join(names) if names else "")


def _stored(metadata: Mapping[str, object], key: str, source: str) -> str:
    text = metadata.get(key)
    if not isinstance(text, str):
        fault = "the model has no chat template"
        if text is not None:
            fault = f"expected the text of a chat template, found {type(text).__name__}"
        raise TokenizerError(fault, where=f"{source}: {key}", hint=f"set data.chat_template; {_known(metadata)}")
    return text


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise TokenizerError(f"the chat template cannot be read: {error.strerror}", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise TokenizerError("the chat template is not UTF-8 text", where=f"{path}: byte {error.start}") from error
