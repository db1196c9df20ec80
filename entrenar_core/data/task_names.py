"""Names, in lower case, by which data sets call their columns; docs/inference.md lists them."""

from __future__ import annotations

import re
from collections.abc import Mapping

TEXT_NAMES = ("text", "content", "document")
"""A column of plain text."""

PAIR_NAMES: Mapping[str, tuple[str, ...]] = {
    "prompt": ("completion", "response", "output", "answer"),
    "question": ("answer", "response", "solution"),
    "query": ("response", "answer"),
    "problem": ("solution", "answer"),
    "input": ("output", "target", "response", "completion"),
    "source": ("target",),
    "src": ("tgt",),
    "user": ("assistant",),
    "human": ("assistant", "bot"),
    "article": ("summary", "highlights"),
    "document": ("summary",),
    "dialogue": ("summary",),
    "text": ("summary",),
}
"""A column to read, and those that may answer it."""

INSTRUCTION_NAMES = ("instruction",)
INPUT_NAMES = ("input", "context")
OUTPUT_NAMES = ("output", "response", "completion", "answer")
"""Alpaca's three columns, and what Dolly calls them."""

QUESTION_NAMES = ("question",)
CONTEXT_NAMES = ("context", "article", "passage", "support")
"""A question and the text that it is about are an instruction and its input; without the text they are a pair."""

MESSAGES_NAMES = ("messages", "conversations", "conversation", "chat", "dialog", "dialogue", "dialogs", "dialogues")
TOOLS_NAMES = ("tools",)

SYSTEM_NAMES = ("system", "system_prompt", "system_message", "meta_instruction")
"""What a model is told before the conversation; no role takes it."""

OPTIONS_NAMES = ("choices", "options")
"""The answers that a question of multiple choice offers, to which a letter or a number points."""

CHOSEN_NAME, REJECTED_NAME = "chosen", "rejected"
"""The better and the worse answer of a preference pair."""

STRONG_LABEL_NAMES = ("label", "labels")
"""Names that are given to nothing but what is to be predicted: they stand against a pair of texts too."""

CLASS_NAMES = (*STRONG_LABEL_NAMES, "class", "category", "sentiment", "emotion", "intent", "topic", "label_text")
"""A column of classes."""

EITHER_NAMES = (*STRONG_LABEL_NAMES, "target", "y")
"""Classes when the column is a category, a number to predict when it is a number."""

NUMBER_NAMES = ("score", "rating", "ratings", "stars", "value", "price", "similarity", "grade")
"""A number to predict."""

HEAD_NAMES = tuple(dict.fromkeys((*CLASS_NAMES, *EITHER_NAMES, *NUMBER_NAMES)))

SAME_LABELS: Mapping[str, str] = {"label_text": "label"}
"""A column that only spells out the classes of another, which stands for both."""

# fmt: off
METADATA_NAMES = frozenset((
    "source", "sources", "lang", "language", "languages", "split", "subset", "dataset", "dataset_name", "domain",
    "url", "urls", "link", "uri", "license", "licence", "author", "authors", "date", "time", "timestamp", "created",
    "created_at", "created_utc", "updated_at", "year", "dump", "meta", "metadata", "file", "file_path", "file_name",
    "filename", "path", "title", "token_count", "num_tokens", "n_tokens", "length", "word_count", "language_score",
    "language_id_score", "perplexity", "quality", "version", "format",
))
# fmt: on
"""What is said about a text, and is not learned unless it is named."""

CORPUS_NAMES = frozenset({"url", "urls", "uri", "link", "source", "dump", "token_count", "language_score"})
"""Columns of a corpus, where a score is a filter's and rarely a target."""

_ID_NAME = re.compile(
    r"^(id|ids|idx|index|uuid|guid|uid|key|hash|sha|sha1|sha256|md5|rowid|row)$"
    r"|_(id|idx|uuid|guid|hash)$|^id_"
    r"|^unnamed: ?\d+$|^__index_level_\d+__$"  # what pandas calls an index that it wrote
)
_CAMEL_ID = re.compile(r"[a-z0-9](Id|ID|Idx)$")


def is_id_name(name: str) -> bool:
    """Whether a column is called an id; the id of a class is a class."""
    lower = name.strip().lower()
    stem = re.sub(r"_?(id|idx)$", "", lower)
    if stem in HEAD_NAMES:
        return False
    return _ID_NAME.search(lower) is not None or _CAMEL_ID.search(name) is not None
