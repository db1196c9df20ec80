"""`entrenar generate` as a person uses it: text on stdout, nothing else there, the adapter's effect to be seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.command import Outcome, entrenar
from tests.stages.tiny_base import write_base, write_config, write_data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model and a run of 120 steps on it."""
    place = tmp_path_factory.mktemp("generate")
    write_base(place / "base.gguf")
    write_data(place)
    write_config(place, data={"batch_size": 20}, training={"max_steps": 120, "log_every": 60}, lora={"rank": 16})
    done = entrenar("train", "config.yaml", cwd=place)
    assert done.code == 0, done.err
    return place


def write(folder: Path, *arguments: str) -> Outcome:
    done = entrenar("generate", *arguments, "--prompt", "Dan saw a old key.\n", "--max-tokens", "24", cwd=folder)
    assert done.code == 0, done.err
    return done


@pytest.mark.slow
def test_what_training_did_can_be_seen(folder: Path) -> None:
    before = write(folder, "base.gguf", "--temperature", "0")
    merged = write(folder, "run/model.gguf", "--temperature", "0")
    adapted = write(folder, "base.gguf", "--adapter", "run/adapter.gguf", "--temperature", "0")
    assert merged.out == adapted.out == "It was Dan's old key.\n"
    assert before.out != merged.out
    assert merged.err == ""


def test_a_seed_repeats_a_draw(folder: Path) -> None:
    first, again = (write(folder, "base.gguf", "--seed", "5", "--temperature", "1.5").out for _ in range(2))
    assert first == again


def test_json_is_the_same_text_in_pieces(folder: Path) -> None:
    text = write(folder, "run/model.gguf", "--temperature", "0").out
    done = write(folder, "run/model.gguf", "--temperature", "0", "--json")
    pieces = [event["text"] for event in done.events() if event["event"] == "generated"]
    assert len(pieces) > 3
    assert "".join(pieces) + "\n" == text
