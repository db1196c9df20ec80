"""The sandbox in which chat templates run: Jinja without side effects, with limits, following the origin of text.

A template cannot reach attributes of Python's inside, change what it is given, loop without end or build texts without
bound; whatever it does wrong becomes an error of the template. Import this module only where a template is compiled: it
brings Jinja with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import date
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from entrenar_core.tokenizer.chat_marks import Marked, fill, has_data, join, plain
from entrenar_core.tokenizer.template_functions import (
    FixedDate,
    TemplateNamespace,
    as_text,
    concatenate,
    following_filters,
    percent,
    raise_exception,
    text_of,
)
from entrenar_core.tokenizer.template_limits import Budget, check_widths

_HARD_TO_BOUND = ("expandtabs", "translate")


class _GenerationBlock(Extension):
    """`{% generation %}` marks the assistant's text for transformers; here the block is just its content."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _CountingCodeGenerator(CodeGenerator):
    """Writes a count into every loop and macro, and joins `a ~ b` where origins are followed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._counted: dict[int, list[nodes.Node]] = {}

    def visit_For(self, node: nodes.For, frame: Frame) -> None:
        self._counted[id(node.body)] = node.body
        super().visit_For(node, frame)

    def macro_body(self, node: nodes.Macro | nodes.CallBlock, frame: Frame) -> Any:
        self._counted[id(node.body)] = node.body
        return super().macro_body(node, frame)

    def blockvisit(self, body: Iterable[nodes.Node], frame: Frame) -> None:
        if id(body) in self._counted:
            self.writeline("environment.count_step()")
        super().blockvisit(body, frame)

    def visit_List(self, node: nodes.List, frame: Frame) -> None:
        self._charged(super().visit_List, node, frame)

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:
        self._charged(super().visit_Dict, node, frame)

    def visit_Tuple(self, node: nodes.Tuple, frame: Frame) -> None:
        if node.ctx == "load":
            self._charged(super().visit_Tuple, node, frame)
        else:
            super().visit_Tuple(node, frame)

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:
        if isinstance(node.arg, nodes.Slice):
            self._charged(super().visit_Getitem, node, frame)
        else:
            super().visit_Getitem(node, frame)

    def _charged(self, visit: Callable[..., None], node: nodes.Node, frame: Frame) -> None:
        self.write("environment.charge_nested(")
        visit(node, frame)
        self.write(")")

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.concatenate((")
        for argument in node.nodes:
            self.visit(argument, frame)
            self.write(", ")
        self.write("))")


class TemplateSandbox(ImmutableSandboxedEnvironment):
    """The environment of one template; one rendering at a time, since the budget is that of the one that goes on."""

    code_generator_class = _CountingCodeGenerator
    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self, today: date) -> None:
        extensions = [_GenerationBlock, LoopControlExtension]
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=extensions, finalize=as_text)
        self.budget = Budget()
        self.date = FixedDate(today)
        self.count_step = self.budget.count_step
        self.charge_nested = self.budget.charge_nested
        self.concat = self._concat  # type: ignore[method-assign]
        self.filters = following_filters(self.filters, self.budget)
        del self.globals["lipsum"]  # random text
        self.globals["raise_exception"] = raise_exception
        self.globals["strftime_now"] = self.date.strftime_now
        self.globals["namespace"] = TemplateNamespace

    def concatenate(self, values: Iterable[object]) -> str:
        """`a ~ b ~ c`."""
        return self.budget.charge(concatenate(values))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            self.budget.reserve_pattern(left, right)
            return self.budget.charge(percent(left, right))
        self.budget.reserve_binop(operator, left, right)
        return self.binop_table[operator](left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        owner = getattr(__obj, "__self__", None)
        if not isinstance(owner, (str, bytes)):
            if getattr(__obj, "catch_varargs", False) or getattr(__obj, "catch_kwargs", False):
                __self.budget.expanded_size(args, kwargs)
            result = super().call(__context, __obj, *args, **kwargs)
            return result if isinstance(result, str) else __self.budget.charge_nested(result)
        __self.budget.look_at_the_clock()
        check_widths(*args, *kwargs.values())
        method, args = __self._prepared_method(owner, __obj, args)
        return __self.budget.charge(super().call(__context, method, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        owner = getattr(value, "__self__", None)
        if not isinstance(owner, str) or value.__name__ not in ("format", "format_map"):
            return None
        sandboxed: Any = super().wrap_str_format(getattr(plain(owner), value.__name__))

        def formatted(*args: Any, **kwargs: Any) -> str:
            self.budget.reserve_pattern(owner, args, kwargs)
            if has_data(owner):
                return text_of(sandboxed(*args, **kwargs), owner, args, kwargs)
            return self.budget.charge(fill(lambda given: sandboxed(*given[0], **given[1]), (args, kwargs)))

        return formatted

    def _prepared_method(self, owner: Any, method: Any, args: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
        """The method that follows origins, where a text of the template is given texts of the data; sizes counted."""
        name = method.__name__
        if name in _HARD_TO_BOUND:
            raise SecurityError(f"{name}() is not available to chat templates")
        if name == "join" and args:
            args = (list(args[0]), *args[1:])
            self.budget.reserve_join(owner, args[0])
        elif name == "replace" and len(args) > 1:
            self.budget.reserve_replace(owner, *args[:2])
        if type(owner) is str and has_data(args):
            method = getattr(Marked(owner, ()), name)
        return method, args

    def _concat(self, parts: Iterable[str]) -> str:
        """What a template, a macro or a block writes."""
        texts: list[str] = []
        length = 0
        for part in parts:
            texts.append(part)
            length += len(part)
            self.budget.check_size(length)
        self.budget.reserve(length)
        return join(texts) if any(isinstance(text, Marked) for text in texts) else "".join(texts)


def compile_template(text: str, today: date) -> tuple[TemplateSandbox, jinja2.Template]:
    """Raises jinja2.TemplateSyntaxError, which knows the line."""
    sandbox = TemplateSandbox(today)
    return sandbox, sandbox.from_string(text)
