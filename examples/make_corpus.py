"""Makes the quickstart's data: invented stories with questions to pre-train on, and with summaries to fine-tune on.

Run `python examples/make_corpus.py`; the same seed gives the same files. The stories come from a grammar of names,
animals, places and things, so a model of a million weights learns them in minutes. The questions teach it to look back
into the story; whether it has then learned to summarise shows at a glance: the summary must name what the story named.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

FOLDER = Path(__file__).parent
SEED = 20261123
N_PRETRAIN, N_TRAIN, N_VAL = 16000, 3000, 200

NAMES = ["Ada", "Bo", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana", "Ivo", "June", "Kai", "Lena", "Milo", "Nora"]
ANIMALS = ["fox", "owl", "bear", "cat", "duck", "goat", "hare", "mole", "frog", "crow", "mouse", "otter"]
PLACES = ["river", "forest", "market", "hill", "beach", "garden", "bridge", "mill", "cave", "harbour"]
COLOURS = ["red", "blue", "green", "golden", "white", "black", "silver", "brown"]
THINGS = ["ball", "key", "lamp", "boat", "hat", "drum", "book", "bell", "coin", "kite"]
MOODS = ["happy", "tired", "brave", "curious", "hungry", "quiet"]
WEATHER = [
    "The sun was warm.",
    "It rained a little.",
    "The wind was strong.",
    "Snow lay on the ground.",
    "Fog hid the path.",
]
TRAVEL = ["walked to", "ran to", "went to", "hurried to"]
FIND = ["found", "saw", "picked up", "discovered"]
ENDINGS = [
    "Then {name} went home.",
    "{name} smiled all day.",
    "In the evening {name} told everyone.",
    "{name} kept the {thing} for a long time.",
]


@dataclass(frozen=True)
class Story:
    """A story of five sentences, what can be asked about it, and the summary that follows from it."""

    text: str
    questions: tuple[str, ...]
    summary: str


def invent(rng: random.Random) -> Story:
    """A story from the grammar."""
    name, animal, place = rng.choice(NAMES), rng.choice(ANIMALS), rng.choice(PLACES)
    colour, thing = rng.choice(COLOURS), rng.choice(THINGS)
    sentences = [
        f"{name} was a {rng.choice(MOODS)} {animal}.",
        f"One day {name} {rng.choice(TRAVEL)} the {place}.",
        f"There {name} {rng.choice(FIND)} a {colour} {thing}.",
        rng.choice(ENDINGS).format(name=name, thing=thing),
    ]
    sentences.insert(rng.randint(1, 3), rng.choice(WEATHER))
    questions = (
        f"Who? {name} the {animal}.",
        f"Where? At the {place}.",
        f"What? A {colour} {thing}.",
        f"Which animal? The {animal}.",
        f"Which colour? {colour.capitalize()}.",
    )
    return Story(" ".join(sentences), questions, f"{name} the {animal} found a {colour} {thing} at the {place}.")


def with_questions(story: Story, rng: random.Random) -> str:
    """The story and a few of its questions with their answers."""
    return " ".join([story.text, *rng.sample(story.questions, rng.randint(2, 4))])


def write(path: Path, **columns: list[str]) -> None:
    """One parquet file of string columns."""
    pq.write_table(pa.table(columns), path, compression="zstd", compression_level=19)


def main() -> None:
    """Write the three files beside this script."""
    rng = random.Random(SEED)
    stories = list(dict.fromkeys(invent(rng) for _ in range(N_PRETRAIN + N_TRAIN + N_VAL)))
    tuned, val = stories[:N_TRAIN], stories[N_TRAIN : N_TRAIN + N_VAL]
    write(FOLDER / "tiny-pretrain.parquet", text=[with_questions(story, rng) for story in stories[N_TRAIN + N_VAL :]])
    for file, chosen in (("tiny-train.parquet", tuned), ("tiny-val.parquet", val)):
        columns = {"prompt": [story.text for story in chosen], "completion": [story.summary for story in chosen]}
        write(FOLDER / file, **columns)


if __name__ == "__main__":
    main()
