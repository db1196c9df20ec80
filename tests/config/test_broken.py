"""What a broken YAML gets: one message that a newcomer can act on. The messages lie beside the files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from entrenar_core.config.load import load_config
from entrenar_core.errors import ConfigError

BROKEN = Path(__file__).parent / "broken"
FILES = sorted(BROKEN.glob("*.yaml"))
REWRITE = os.environ.get("REWRITE_SNAPSHOTS") == "1"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_broken_file_gets_the_message_beside_it(path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    message = str(caught.value).replace(f"{BROKEN}{os.sep}", "") + "\n"
    expected = path.with_suffix(".txt")
    if REWRITE:
        expected.write_text(message, encoding="utf-8")
    assert message == expected.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_message_names_its_file_or_one_it_includes_and_fits_a_screen(path: Path) -> None:
    text = path.with_suffix(".txt").read_text(encoding="utf-8")
    assert f"{path.name}:" in text or "parts/" in text
    assert max(map(len, text.splitlines())) < 300


def test_every_expected_message_has_its_file() -> None:
    assert {path.stem for path in BROKEN.glob("*.txt")} == {path.stem for path in FILES}
