"""What the tests of the stages begin with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stages.tiny_base import write_base, write_data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a base model and data."""
    write_base(tmp_path / "base.gguf")
    write_data(tmp_path)
    return tmp_path
