"""Chat templates by name, for models that carry none: the plain form of each well-known format.

Every one takes system, user and assistant turns in any order and ends a turn of the assistant with the format's own
stop token. Tools are written by chatml, in the form of Hermes and Qwen, and by llama3, in that of Llama 3.1.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

_CHATML = """
{%- set ns = namespace(system='') -%}
{%- if tools -%}
{%- set ns.system = 'Functions that you can call, as JSON schemas:\\n<tools>\\n' -%}
{%- for tool in tools -%}{%- set ns.system = ns.system + (tool | tojson) + '\\n' -%}{%- endfor -%}
{%- set ns.system = ns.system + '</tools>\\n\\nWrite each call as a JSON object between tags:\\n<tool_call>\\n'
    + '{"name": <name of the function>, "arguments": <object of arguments>}\\n</tool_call>' -%}
{%- if messages[0].role != 'system' -%}
{{ '<|im_start|>system\\n' + ns.system + '<|im_end|>\\n' }}{%- set ns.system = '' -%}
{%- endif -%}
{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'system' and ns.system -%}
{{ '<|im_start|>system\\n' + message.content + '\\n\\n' + ns.system + '<|im_end|>\\n' }}{%- set ns.system = '' -%}
{%- elif message.role == 'tool' -%}
{{ '\\n' if loop.previtem is defined and loop.previtem.role == 'tool' else '<|im_start|>user\\n' }}
{{- '<tool_response>\\n' + message.content + '\\n</tool_response>' }}
{{- '' if loop.nextitem is defined and loop.nextitem.role == 'tool' else '<|im_end|>\\n' }}
{%- elif message.tool_calls -%}
{{ '<|im_start|>' + message.role + '\\n' + (message.content + '\\n' if message.content else '') }}
{%- for call in message.tool_calls -%}
{%- set call = call.function or call -%}
{%- set arguments = call.arguments or {} -%}
{{ '' if loop.first else '\\n' }}
{{- '<tool_call>\\n{"name": ' + (call.name | tojson) + ', "arguments": ' }}
{{- arguments if arguments is string else arguments | tojson }}
{{- '}\\n</tool_call>' }}
{%- endfor -%}
{{ '<|im_end|>\\n' }}
{%- else -%}
{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""

_LLAMA3 = """
{{- bos_token -}}
{%- set ns = namespace(system='') -%}
{%- if tools -%}
{%- set ns.system = 'Functions that you can call, as JSON schemas:\\n\\n' -%}
{%- for tool in tools -%}{%- set ns.system = ns.system + (tool | tojson(indent=4)) + '\\n\\n' -%}{%- endfor -%}
{%- set ns.system = ns.system + 'Write a call as nothing but JSON: '
    + '{"name": <name of the function>, "parameters": <object of arguments>}' -%}
{%- if messages[0].role != 'system' -%}
{{ '<|start_header_id|>system<|end_header_id|>\\n\\n' + ns.system + '<|eot_id|>' }}{%- set ns.system = '' -%}
{%- endif -%}
{%- endif -%}
{%- for message in messages -%}
{{ '<|start_header_id|>' + ('ipython' if message.role == 'tool' else message.role) + '<|end_header_id|>\\n\\n' }}
{{- (message.content or '') | trim }}
{%- if message.role == 'system' and ns.system -%}
{{ '\\n\\n' + ns.system }}{%- set ns.system = '' -%}
{%- endif -%}
{%- if message.tool_calls -%}
{%- if message.tool_calls | length > 1 -%}{{ raise_exception('the format knows one tool call a turn') }}{%- endif -%}
{%- set call = message.tool_calls[0].function or message.tool_calls[0] -%}
{%- set arguments = call.arguments or {} -%}
{{ '\\n' if message.content else '' }}
{{- '{"name": ' + (call.name | tojson) + ', "parameters": ' }}
{{- arguments if arguments is string else arguments | tojson }}
{{- '}' }}
{%- endif -%}
{{ '<|eot_id|>' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif -%}
"""

# The system text goes in front of the user's first text; so does Gemma's.
_MISTRAL = """
{{- bos_token -}}
{%- set ns = namespace(system='') -%}
{%- for message in messages -%}
{%- if message.role == 'system' -%}{%- set ns.system = message.content + '\\n\\n' -%}
{%- elif message.role == 'assistant' -%}{{ ' ' + message.content | trim + eos_token }}
{%- else -%}{{ '[INST] ' + ns.system + message.content + ' [/INST]' }}{%- set ns.system = '' -%}
{%- endif -%}
{%- endfor -%}
"""

_GEMMA = """
{{- bos_token -}}
{%- set ns = namespace(system='') -%}
{%- for message in messages -%}
{%- if message.role == 'system' -%}{%- set ns.system = message.content | trim + '\\n\\n' -%}
{%- elif message.role == 'assistant' -%}{{ '<start_of_turn>model\\n' + message.content | trim + '<end_of_turn>\\n' }}
{%- else -%}
{{ '<start_of_turn>user\\n' + ns.system + message.content | trim + '<end_of_turn>\\n' }}{%- set ns.system = '' -%}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}
"""

_PHI3 = """
{%- for message in messages -%}
{{ '<|' + message.role + '|>\\n' + message.content + '<|end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|assistant|>\\n' }}{%- endif -%}
"""

_ZEPHYR = """
{%- for message in messages -%}
{{ '<|' + message.role + '|>\\n' + message.content + eos_token + '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|assistant|>\\n' }}{%- endif -%}
"""

_VICUNA = """
{{- bos_token -}}
{%- for message in messages -%}
{%- if message.role == 'system' -%}{{ message.content + '\\n\\n' }}
{%- elif message.role == 'assistant' -%}{{ 'ASSISTANT: ' + message.content + eos_token + '\\n' }}
{%- else -%}{{ 'USER: ' + message.content + '\\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ 'ASSISTANT:' }}{%- endif -%}
"""

_ALPACA = """
{{- bos_token -}}
{%- for message in messages -%}
{%- if message.role == 'system' -%}{{ message.content + '\\n\\n' }}
{%- elif message.role == 'assistant' -%}{{ '### Response:\\n' + message.content + eos_token + '\\n\\n' }}
{%- else -%}{{ '### Instruction:\\n' + message.content + '\\n\\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '### Response:\\n' }}{%- endif -%}
"""

BUILTIN_TEMPLATES: Mapping[str, str] = {
    "alpaca": _ALPACA,
    "chatml": _CHATML,
    "gemma": _GEMMA,
    "llama3": _LLAMA3,
    "mistral": _MISTRAL,
    "phi3": _PHI3,
    "vicuna": _VICUNA,
    "zephyr": _ZEPHYR,
}
"""Name -> Jinja text."""

TURN_ENDINGS: Mapping[str, str | None] = {
    "chatml": "<|im_end|>",
    "llama3": "<|eot_id|>",
    "gemma": "<end_of_turn>",
    "phi3": "<|end|>",
    "zephyr": None,
    "mistral": None,
    "vicuna": None,
    "alpaca": None,
}
"""Name -> what ends a turn of the assistant, None for EOS; the templates to prefer come first."""


def template_for_stops(stops: Collection[str], eos: str) -> tuple[str, str] | None:
    """The first template that ends turns with a stop token of a vocabulary, and that token; None if there is none.

    Args:
        stops: the texts of the tokens that end a generation.
        eos: the text of EOS; empty where there is none.
    """
    endings = ((name, eos if ending is None else ending) for name, ending in TURN_ENDINGS.items())
    return next(((name, ending) for name, ending in endings if ending in stops), None)
