"""A cache that is complete, for the tests that read or copy it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.distill.caches import built, request_of


@pytest.fixture(scope="session")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a cache that was built at once."""
    folder = tmp_path_factory.mktemp("straight") / "cache"
    assert len(built(request_of(folder)).cache.missing) == 0
    return folder
