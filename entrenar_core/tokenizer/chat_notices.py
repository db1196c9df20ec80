"""What is said of a template that does not fit a vocabulary or a conversation: the fact, and what to do."""

from __future__ import annotations

from collections.abc import Iterator

from entrenar_core.tokenizer.chat_template import DEFAULT_NAME, ChatTemplate, template_for_vocabulary
from entrenar_core.tokenizer.conversation import KNOWN_ROLES, Conversation, advice_on_role
from entrenar_core.tokenizer.tokenizer import Tokenizer

NO_SYSTEM = "the chat template has no system role: a system text goes in front of the next message"
LEFT_OUT = "the chat template leaves out some turns of the assistant, or they are empty"


def unknown_roles(conversation: Conversation, template: ChatTemplate) -> Iterator[tuple[str, str]]:
    """Roles that are neither known nor named by the template, often misspelt, and what to say of each."""
    for role in {message["role"]: None for message in conversation.messages}:
        if role not in KNOWN_ROLES and f"'{role}'" not in template.text and f'"{role}"' not in template.text:
            fate = "it goes to the chat template as it is and is not trained as the assistant's"
            yield role, f"the role {role!r} is not known: {fate}; {advice_on_role(role)}"


def without_calls(template: ChatTemplate) -> str:
    called = (
        "the chat template of the model" if template.name == DEFAULT_NAME else f"the chat template {template.name!r}"
    )
    advice = "use the template of a model with tools, or chatml or llama3, in data.chat_template"
    return f"{called} does not write the tool calls of the assistant: the model does not learn them; {advice}"


def ends_with_text(closing: str, tokenizer: Tokenizer) -> str:
    fact = f"the chat template ends turns of the assistant with {closing!r}"
    notice = f"{fact}, which is no stop token of this vocabulary; it is trained as text"
    better = template_for_vocabulary(tokenizer)
    if better is None:
        return notice
    name, ending = better
    return f"{notice}: choose a template that ends with {ending!r}, such as {name}, in data.chat_template"


def ends_with_nothing(*, add_eos: bool) -> str:
    after = "EOS is put after the last turn" if add_eos else "the model does not learn to stop"
    return f"the chat template does not end every turn of the assistant; {after}"
