"""Makes small data sets in every form that `entrenar` recognises, from the grammar of `make_corpus.py`.

Run `python examples/make_forms.py`; the same seed gives the same files. Each form is in another file format, so that
the ready configurations show them all: chat (JSONL), ShareGPT (parquet), Alpaca (JSONL), classification (CSV) and
regression (Feather).
"""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from make_corpus import NAMES, THINGS, WEATHER, Story, invent
from pyarrow import feather

FOLDER = Path(__file__).parent
SEED = 20261124
ROWS = 240
SKIES = dict(zip(WEATHER, ("sun", "rain", "wind", "snow", "fog"), strict=True))
COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def questions_of(story: Story) -> list[tuple[str, str]]:
    """Question and answer, apart."""
    return [tuple(text.split("? ", 1)) for text in story.questions]  # type: ignore[misc]


def chat(story: Story, rng: random.Random) -> dict[str, Any]:
    """A conversation in OpenAI's form: a story, a question about it, and sometimes a second one."""
    (first, answer), (second, more) = rng.sample(questions_of(story), 2)
    turns = [("user", f"{story.text} {first}?"), ("assistant", answer)]
    if rng.random() < 0.5:
        turns += [("user", f"{second}?"), ("assistant", more)]
    if rng.random() < 0.3:
        turns.insert(0, ("system", "Answer in a few words."))
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def sharegpt(story: Story) -> list[dict[str, str]]:
    """The same kind of conversation as ShareGPT writes it."""
    return [{"from": "human", "value": f"Sum up: {story.text}"}, {"from": "gpt", "value": story.summary}]


def alpaca(story: Story, rng: random.Random) -> dict[str, str]:
    """An instruction, with the story as its input or inside it."""
    question, answer = rng.choice(questions_of(story))
    if rng.random() < 0.5:
        return {"instruction": f"{question}?", "input": story.text, "output": answer}
    return {"instruction": f"{story.text} {question}?", "input": "", "output": answer}


def weather(story: Story) -> dict[str, str]:
    """A story and the weather in it: a category."""
    return {"text": story.text, "label": next(sky for line, sky in SKIES.items() if line in story.text)}


def purchase(rng: random.Random) -> tuple[str, float]:
    """What somebody bought, and the number of things: a number to be predicted."""
    name, thing, other = rng.choice(NAMES), *rng.sample(THINGS, 2)
    a, b = rng.randrange(10), rng.randrange(10)
    return f"{name} bought {COUNTS[a]} {thing}s and {COUNTS[b]} {other}s.", float(a + b)


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """JSONL."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    """Write the files beside this script."""
    rng = random.Random(SEED)
    stories = list(dict.fromkeys(invent(rng) for _ in range(ROWS)))
    write_lines(FOLDER / "tiny-chat.jsonl", [chat(story, rng) for story in stories])
    write_lines(FOLDER / "tiny-alpaca.jsonl", [alpaca(story, rng) for story in stories])
    conversations = [sharegpt(story) for story in stories]
    pq.write_table(pa.table({"conversations": conversations}), FOLDER / "tiny-sharegpt.parquet", compression="zstd")
    with (FOLDER / "tiny-weather.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, ["text", "label"])
        table.writeheader()
        table.writerows(weather(story) for story in stories)
    texts, totals = zip(*(purchase(rng) for _ in range(ROWS)), strict=True)
    feather.write_feather(pa.table({"text": texts, "total": totals}), FOLDER / "tiny-purchases.feather")


if __name__ == "__main__":
    main()
