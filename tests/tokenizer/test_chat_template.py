"""Which template is meant, what it may do, and what happens when it does something else."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from entrenar_core.errors import TokenizerError
from entrenar_core.tokenizer import template_limits
from entrenar_core.tokenizer.builtin_templates import BUILTIN_TEMPLATES
from entrenar_core.tokenizer.chat_marks import mark, spans_of
from entrenar_core.tokenizer.chat_template import (
    LARGEST_TEMPLATE,
    ChatTemplate,
    TemplateRefusal,
    choose_template,
    template_names,
)

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


def chosen(choice: str | None, metadata: dict[str, object] | None = None) -> ChatTemplate:
    return choose_template(choice, metadata or {}, "model.gguf", bos="<s>", eos="</s>")


def rendered(text: str, **values: object) -> str:
    return ChatTemplate("test", text).render([values])


def test_without_a_choice_the_template_of_the_model_is_taken() -> None:
    template = chosen(None, {"tokenizer.chat_template": "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"})
    assert template.render(CHAT) == "<s>Hi</s>"
    assert template.name == "default"


def test_a_named_template_of_the_model_can_be_chosen() -> None:
    metadata: dict[str, object] = {"tokenizer.chat_template": "a{#", "tokenizer.chat_template.tool_use": "tools"}
    assert template_names(metadata) == ["default", "tool_use"]
    assert chosen("tool_use", metadata).render(CHAT) == "tools"


def test_a_template_may_be_a_file_or_inline_text(tmp_path: Path) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text("file {{ messages | length }}", encoding="utf-8")
    assert chosen(str(path)).render(CHAT) == "file 2"
    assert chosen("inline {{ messages | length }}").render(CHAT) == "inline 2"


def test_built_in_names_are_case_insensitive() -> None:
    assert chosen("ChatML").text == BUILTIN_TEMPLATES["chatml"]


def test_a_model_without_a_template_gets_an_error_that_lists_the_built_in_ones() -> None:
    with pytest.raises(TokenizerError) as error:
        chosen(None)
    assert error.value.message == "the model has no chat template"
    assert error.value.where == "model.gguf: tokenizer.chat_template"
    assert "chatml" in str(error.value.hint)


def test_a_template_that_is_no_text_is_named() -> None:
    with pytest.raises(TokenizerError, match="expected the text of a chat template, found list"):
        chosen(None, {"tokenizer.chat_template": ["a"]})


def test_an_unknown_name_gets_the_nearest_and_all_others() -> None:
    with pytest.raises(TokenizerError) as error:
        chosen("chatm", {"tokenizer.chat_template.rag": "x"})
    assert error.value.where == "data.chat_template"
    assert str(error.value.hint).startswith("did you mean chatml?")
    assert "in the model: rag" in str(error.value.hint)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"none\.jinja: the chat template cannot be read"):
        chosen(str(tmp_path / "none.jinja"))


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bytes.jinja"
    path.write_bytes(b"abc\xff")
    with pytest.raises(TokenizerError, match=r"bytes\.jinja: byte 3: the chat template is not UTF-8 text"):
        chosen(str(path))


def test_a_broken_template_is_an_error_with_its_line() -> None:
    with pytest.raises(TokenizerError) as error:
        chosen(None, {"tokenizer.chat_template": "one\ntwo {% for x in %}\n"})
    assert error.value.where == "model.gguf: tokenizer.chat_template: line 2"
    assert "the chat template is broken" in error.value.message


def test_an_endless_template_text_is_not_compiled() -> None:
    with pytest.raises(TokenizerError, match="characters, more than"):
        ChatTemplate("test", "x" * (LARGEST_TEMPLATE + 1))


def test_a_refusal_of_the_template_carries_its_words_and_its_line_and_no_data() -> None:
    template = ChatTemplate("test", "a\n{{ raise_exception('no ' + messages[0].role) }}")
    with pytest.raises(TemplateRefusal) as refusal:
        template.render_marked([{"role": mark("secret", 0)}])
    assert refusal.value.message == "no …"
    assert refusal.value.where == "chat template test: line 2"
    assert refusal.value.by_author


def test_a_mistake_at_run_time_is_a_refusal_that_is_not_the_authors() -> None:
    with pytest.raises(TemplateRefusal) as refusal:
        rendered("\n\n{{ messages[0].content + 1 }}", content="x")
    assert refusal.value.where == "chat template test: line 3"
    assert not refusal.value.by_author


def test_json_is_written_as_it_is_and_with_options() -> None:
    value = {"b": "<é>", "a": [1, None, True]}
    assert rendered("{{ messages[0].v | tojson }}", v=value) == json.dumps(value, ensure_ascii=False)
    assert rendered("{{ messages[0].v | tojson(indent=2) }}", v=value) == json.dumps(
        value, ensure_ascii=False, indent=2
    )
    compact = "{{ messages[0].v | tojson(separators=(',', ':'), sort_keys=true, ensure_ascii=true) }}"
    assert rendered(compact, v=value) == '{"a":[1,null,true],"b":"<\\u00e9>"}'


def test_the_date_is_fixed_unless_another_is_given() -> None:
    text = "{{ strftime_now('%d %b %Y %H:%M') }}"
    assert rendered(text) == "01 Jan 2026 00:00"
    other = choose_template(text, {}, "model.gguf", bos="", eos="", today=date(2024, 7, 26))
    assert other.render(CHAT) == pickle.loads(pickle.dumps(other)).render(CHAT) == "26 Jul 2024 00:00"


def test_a_template_tells_whether_it_asked_for_the_date_the_last_time() -> None:
    template = ChatTemplate("test", "{% if messages | length == 1 %}{{ strftime_now('%Y') }}{% endif %}")
    assert not template.asked_for_date
    template.render(CHAT[:1])
    assert template.asked_for_date
    template.render(CHAT)
    assert not template.asked_for_date


def test_loops_can_be_left_and_generation_blocks_are_their_content() -> None:
    text = "{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}"
    assert rendered(text) == "01"
    assert rendered("a{% generation %}b{% endgeneration %}c") == "abc"


def test_blocks_take_their_line_with_them() -> None:
    assert rendered("a\n  {% if true %}\nb\n  {% endif %}\nc") == "a\nb\nc"


NESTED = (
    "{% set ns = namespace(l=[]) %}{% for i in range(40) %}{% set ns.l = [ns.l, ns.l] %}{% set ns.k = [ns.l] %}"
    "{% endfor %}"
)
NESTED_USES = ("{{ ns.l }}", "{{ ns.l | tojson }}", "{{ ns.l == ns.k }}", "{{ 'x'.startswith(ns.l) }}")


@pytest.mark.parametrize(
    "text",
    [
        "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
        "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
        "{% for i in range(10**6) %}{% endfor %}",
        "{{ 'x' * 10**9 }}",
        "{{ [0] * 10**9 }}",
        "{{ 2 ** (10**9) }}",
        "{% set n = namespace(x=3) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}",
        "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
        "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "{% set n = namespace(x=[1]) %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
        "{% set n = namespace(x=[]) %}{% for i in range(9999) %}{% set n.x = n.x + [range(9999) | list] %}{% endfor %}",
        "{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
        "{{ 'x' | center(10**9) }}",
        "{{ 'x'.ljust(10**9) }}",
        "{{ 'x'.zfill(10**9) }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '%*d' % (10**9, 1) }}",
        "{{ '%*d' | format(10**9, 1) }}",
        "{{ '{:999999999}'.format(1) }}",
        "{{ '{:{}}'.format(1, 10**9) }}",
        "{{ ('x' * 4000000).replace('x', 'y' * 4000000) }}",
        "{{ ('x' * 4000000) | replace('x', 'y' * 4000000) }}",
        "{{ (['x' * 4000000] * 4000000) | join }}",
        "{{ ''.join(['x' * 4000000] * 4000000) }}",
        "{{ ('\\n' * 4000000) | indent(4000) }}",
        "{{ ('\\t' * 4000000).expandtabs(4000) }}",
        "{{ ('x' * 4000000).translate({120: 'y' * 4000000}) }}",
        "{{ [1] | tojson(indent=10**9) }}",
        "{{ ('{0:9999}' * 400000).format(1) }}",
        "{{ ('%9999d' * 500000) % (([1] * 500000) | list) }}",
        "{{ ('{0}' * 400000).format('x' * 4000000) }}",
        "{{ ('%(a)s' * 400000) | format(a='x' * 4000000) }}",
        "{{ ([0] * 100000) | tojson(separators=('x' * 10000, 'y')) }}",
        "{{ ([0] * 100000) | tojson(indent='x' * 10000) }}",
        "{{ ([[0] * 1000] * 4000) | sum(start=[]) }}",
        "{{ strftime_now('%4000d' * 100000) }}",
        "{% set n = namespace(k=[]) %}{% set l = [0] * 100000 %}"
        "{% for i in range(99999) %}{% set n.k = [n.k[-9:], l[1:]] %}{% endfor %}",
        *(NESTED + use for use in NESTED_USES),
        "{% set n = namespace(l=[]) %}{% for i in range(40) %}{% set n.l = dict(a=n.l, b=n.l) %}{% endfor %}{{ n.l }}",
        "{% macro m(n) %}{% if n %}{{ m(n - 1, varargs, varargs) }}{% else %}{{ varargs }}{% endif %}{% endmacro %}"
        "{{ m(40) }}",
        "{% set n = namespace(l=()) %}{% for i in range(99999) %}{% set n.l = (n.l,) %}{% endfor %}{{ n.l }}",
        "{% set n = namespace(l=[0]) %}{% for i in range(40) %}{% set n.l = [n.l] * 2 %}{% endfor %}{{ n.l }}",
    ],
)
def test_a_hostile_template_ends_with_an_error(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an eighth of what may be built, which real templates are as far from; the whole takes seconds."""
    monkeypatch.setattr(template_limits, "MOST_BUILT", template_limits.MOST_BUILT >> 3)
    with pytest.raises(TemplateRefusal):
        rendered(text)


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__ }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ '{0.__class__}'.format(1) }}",
        "{{ messages[0]['content']['_spans'] }}",
        "{{ messages[0].content._spans }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({}) }}",
        "{% set n = namespace(_x=1) %}",
        "{{ ('a' | attr('__class__')).mro }}",
        "{% include 'other' %}",
        "{{ lipsum() }}",
        "{{ 'x' | random }}",
    ],
)
def test_what_lies_outside_of_the_sandbox_cannot_be_reached(text: str) -> None:
    try:
        result = ChatTemplate("test", text).render_marked([{"content": mark("x", 0)}])
    except TokenizerError:
        return
    assert result == ""


def test_a_template_survives_pickling() -> None:
    template = pickle.loads(pickle.dumps(chosen("chatml")))
    assert template.render(CHAT) == chosen("chatml").render(CHAT)


def test_limits_are_per_rendering() -> None:
    template = ChatTemplate("test", "{% for a in range(1000) %}{% for b in range(600) %}{% endfor %}{% endfor %}ok")
    assert template.render([]) == template.render([]) == "ok"


EXPRESSIONS = {
    "{{ '<|x|>' + m.content + '</x>' }}": ["D"],
    "{{ '<|x|>' ~ m.content ~ 1 }}": ["D"],
    "{{ m.content | trim }}": ["D"],
    "{% set x %}<x>{{ m.content }}</x>{% endset %}{{ x }}": ["D"],
    "{% macro f(v) %}<x>{{ v }}{% endmacro %}{{ f(m.content) }}": ["D"],
    "{{ ['<x>', m.content] | join('|') }}": ["D"],
    "{{ '|'.join(['<x>', m.content]) }}": ["D"],
    "{{ '<x>%s' % m.content }}": ["D"],
    "{{ '<x>%s' | format(m.content) }}": ["D"],
    "{{ '<x>{}'.format(m.content) }}": ["D"],
    "{{ '<x>v'.replace('v', m.content) }}": ["D"],
    "{{ '<x>v' | replace('v', m.content) }}": ["D"],
    "{{ strftime_now(m.content) }}<x>": ["D"],
    "{{ m | tojson }}": ['{"content": "D"}'],
    "{{ m.content | upper }}<x>": ["D"],
    "{{ m.content | default('<x>') }}<x>": ["D"],
    "{{ '<x>' if m.content else '' }}": [],
    "{% for c in m.content %}{{ c }}<x>{% endfor %}": ["D"],
    "{{ [m] | map(attribute='content') | first }}<x>": ["D"],
    "{{ (m.content ~ '\n<x>') | indent(2) }}": ["D\n  <x>"],
    "{% filter upper %}<x>{{ m.content }}{% endfilter %}": ["D"],
    "{% call(v) f() %}{% endcall %}": [],
}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_data_is_known_in_whatever_way_a_template_writes_it(expression: str) -> None:
    text = "{% macro f() %}{{ caller(1) }}{% endmacro %}{% set m = messages[0] %}" + expression
    result = ChatTemplate("test", text).render_marked([{"content": mark("D", 0)}])
    assert [result[begin:end] for begin, end, _ in spans_of(result)] == EXPRESSIONS[expression]
    assert result == ChatTemplate("test", text).render([{"content": "D"}])


def test_a_message_written_as_python_spells_it_is_refused() -> None:
    with pytest.raises(TemplateRefusal, match="cannot write a mapping"):
        ChatTemplate("test", "{{ messages[0] }}").render_marked([{"content": mark("x", 0)}])


def test_jinja_is_not_loaded_before_a_template_is() -> None:
    code = "import sys, entrenar_core.tokenizer.chat; print('jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
