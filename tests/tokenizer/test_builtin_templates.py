"""The templates that are built in: how they end turns, and how they write tools."""

from __future__ import annotations

import json
from typing import Any

import pytest

from entrenar_core.tokenizer.builtin_templates import BUILTIN_TEMPLATES, TURN_ENDINGS, template_for_stops
from entrenar_core.tokenizer.chat_template import ChatTemplate, TemplateRefusal

ASKED = {"role": "user", "content": "Ulm?"}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Zürich"}}}
TOOL = {"type": "function", "function": {"name": "weather", "description": "Tells."}}
RESULTS = [{"role": "tool", "content": "3"}, {"role": "tool", "content": "4"}]


def rendered(name: str, *messages: dict[str, Any], tools: list[dict[str, Any]] | None = None) -> str:
    return ChatTemplate(name, BUILTIN_TEMPLATES[name], bos="<s>", eos="</s>").render(messages, tools=tools)


def calling(*calls: dict[str, Any], content: str | None = "") -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": list(calls)}


@pytest.mark.parametrize("name", BUILTIN_TEMPLATES)
def test_the_ending_of_each_template_is_known(name: str) -> None:
    text = rendered(name, ASKED, {"role": "assistant", "content": "Sunny"})
    assert text.rstrip().endswith(f"Sunny{TURN_ENDINGS[name] or '</s>'}")


@pytest.mark.parametrize(
    ("stops", "eos", "expected"),
    [
        ({"<|im_end|>", "<|endoftext|>"}, "<|endoftext|>", ("chatml", "<|im_end|>")),
        ({"<|eot_id|>", "<|end_of_text|>"}, "<|end_of_text|>", ("llama3", "<|eot_id|>")),
        ({"<end_of_turn>", "<eos>"}, "<eos>", ("gemma", "<end_of_turn>")),
        ({"<|end|>", "<|endoftext|>"}, "<|endoftext|>", ("phi3", "<|end|>")),
        ({"</s>"}, "</s>", ("zephyr", "</s>")),
        ({"</s>", "<|im_end|>"}, "</s>", ("chatml", "<|im_end|>")),
        ({"<EOT>"}, "", None),
        (set(), "", None),
    ],
)
def test_the_first_template_is_chosen_that_ends_with_a_stop_token(
    stops: set[str], eos: str, expected: tuple[str, str] | None
) -> None:
    assert template_for_stops(stops, eos) == expected


def test_chatml_writes_calls_and_results_as_hermes_and_qwen_do() -> None:
    other = {"function": {"name": "time", "arguments": '{"zone": "CET"}'}}
    assert rendered("chatml", ASKED, calling(CALL, other, content="I look."), *RESULTS, ASKED) == (
        "<|im_start|>user\nUlm?<|im_end|>\n"
        "<|im_start|>assistant\nI look.\n"
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "time", "arguments": {"zone": "CET"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\n3\n</tool_response>\n<tool_response>\n4\n</tool_response><|im_end|>\n"
        "<|im_start|>user\nUlm?<|im_end|>\n"
    )


def test_chatml_offers_tools_in_the_system_turn() -> None:
    system = {"role": "system", "content": "Be kind"}
    alone, after = rendered("chatml", ASKED, tools=[TOOL]), rendered("chatml", system, ASKED, tools=[TOOL])
    assert f"<tools>\n{json.dumps(TOOL)}\n</tools>" in alone
    assert alone.startswith("<|im_start|>system\n")
    assert after == alone.replace("<|im_start|>system\n", "<|im_start|>system\nBe kind\n\n", 1)
    assert alone.endswith(rendered("chatml", ASKED))


def test_llama3_writes_a_call_as_json_and_its_result_as_ipython() -> None:
    assert rendered("llama3", ASKED, calling(CALL, content=None), RESULTS[0]) == (
        "<s><|start_header_id|>user<|end_header_id|>\n\nUlm?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
        '{"name": "weather", "parameters": {"city": "Zürich"}}<|eot_id|>'
        "<|start_header_id|>ipython<|end_header_id|>\n\n3<|eot_id|>"
    )


def test_llama3_offers_tools_in_the_system_turn() -> None:
    system = {"role": "system", "content": "Be kind"}
    alone, after = rendered("llama3", ASKED, tools=[TOOL]), rendered("llama3", system, ASKED, tools=[TOOL])
    assert alone.startswith("<s><|start_header_id|>system<|end_header_id|>\n\n")
    assert json.dumps(TOOL, indent=4) in alone
    assert after == alone.replace("<|end_header_id|>\n\n", "<|end_header_id|>\n\nBe kind\n\n", 1)
    assert alone.endswith(rendered("llama3", ASKED).removeprefix("<s>"))


def test_llama3_knows_one_call_a_turn() -> None:
    with pytest.raises(TemplateRefusal, match="one tool call a turn"):
        rendered("llama3", ASKED, calling(CALL, CALL))


@pytest.mark.parametrize("name", ["chatml", "llama3"])
def test_a_call_may_have_no_arguments(name: str) -> None:
    key = {"chatml": "arguments", "llama3": "parameters"}[name]
    assert f'{{"name": "now", "{key}": {{}}}}' in rendered(name, ASKED, calling({"function": {"name": "now"}}))
