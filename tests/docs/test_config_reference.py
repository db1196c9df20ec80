"""The reference of the YAML is what the schema says."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def test_config_reference_is_up_to_date(project_root: Path) -> None:
    spec = importlib.util.spec_from_file_location("reference", project_root / "docs" / "make_config_reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (project_root / "docs" / "config.md").read_text() == module.reference()
