"""What every test may count on: fixed seeds, hypothesis profiles, the shared data folder, and skips that are counted.

Tests under ``oracle/`` and ``e2e/`` get the markers ``oracle`` and ``integration`` by their place. With
``ENTRENAR_REQUIRE_ORACLES=1`` a test that is marked ``oracle`` or ``nvrtc`` and would be skipped because its library is
missing fails instead.
"""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import hypothesis
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
SHARED_DATA_PLACES = (ROOT / "shared" / "data", ROOT.parent / "shared" / "data")
NO_SHARED_DATA = "shared data are absent (set ENTRENAR_SHARED_DATA to their folder)"
REQUIRED = ("oracle", "nvrtc")
MARKER_OF_FOLDER = {"oracle": pytest.mark.oracle, "e2e": pytest.mark.integration}

hypothesis.settings.register_profile("quick", max_examples=50, deadline=None, derandomize=True)
hypothesis.settings.register_profile("thorough", max_examples=1000, deadline=None)
hypothesis.settings.load_profile(os.environ.get("ENTRENAR_HYPOTHESIS", "quick"))


def pytest_configure() -> None:
    """Ctrl-C arrives as in a terminal: a shell starts what runs in its background with the signal ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Libraries that draw from global generators draw the same in every run and order of tests."""
    random.seed(20240229)
    np.random.seed(20240229)


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator in the same state at the start of each test."""
    return np.random.default_rng(20240229)


@pytest.fixture(scope="session")
def project_root() -> Path:
    """The folder of pyproject.toml."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real models, vocabularies and data sets; tests that need it are skipped where it is absent."""
    stated = os.environ.get("ENTRENAR_SHARED_DATA")
    for place in (Path(stated),) if stated else SHARED_DATA_PLACES:
        if place.is_dir():
            return place.resolve()
    pytest.skip(NO_SHARED_DATA)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by the folder they live in."""
    for item in items:
        for folder in item.path.relative_to(ROOT).parts[1:-1]:
            if folder in MARKER_OF_FOLDER:
                item.add_marker(MARKER_OF_FOLDER[folder])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test that needs an oracle or a compiler instead of skipping it, where those are required."""
    report = yield
    if any(item.get_closest_marker(marker) for marker in REQUIRED) and not hasattr(report, "wasxfail"):
        _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a whole file that skips itself while it is imported (``pytest.importorskip``)."""
    report = yield
    if "oracle" in collector.path.parts:
        _refuse_skip(report)
    return report


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip into a failure with the same reason; absent data are not a missing oracle and stay skipped."""
    if report.skipped and os.environ.get("ENTRENAR_REQUIRE_ORACLES") == "1" and _reason(report) != NO_SHARED_DATA:
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid}: ENTRENAR_REQUIRE_ORACLES=1 allows no skip, but: {_reason(report)}"


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Count the skipped tests by reason."""
    reasons = Counter(_reason(report) for report in terminalreporter.getreports("skipped"))
    if reasons:
        terminalreporter.write_line(f"skipped: {sum(reasons.values())}")
        for reason, count in reasons.most_common():
            terminalreporter.write_line(f"  {count} because: {reason}")
