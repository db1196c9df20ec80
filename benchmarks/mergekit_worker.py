"""Runs in mergekit's environment: merges many configs in one process, since starting it takes seconds.

Usage: python -m benchmarks.mergekit_worker FOLDER, in whose ``NAME.yaml`` the merges are, each with the models by
relative path; writes ``theirs/NAME``. A merge that fails leaves ``theirs/NAME.error`` with mergekit's words.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import MergeOptions, run_merge


def main() -> None:
    """Merge everything in the folder."""
    os.chdir(sys.argv[1])
    for seed, config in enumerate(sorted(Path().glob("*.yaml"))):
        options = MergeOptions(copy_tokenizer=True, write_model_card=False, random_seed=seed, quiet=True)
        output = Path("theirs") / config.stem
        try:
            written = yaml.safe_load(config.read_text(encoding="utf-8"))
            run_merge(MergeConfiguration.model_validate(written), str(output), options)
        except Exception as error:  # whatever it is, the case reports it
            output.mkdir(parents=True, exist_ok=True)
            output.with_suffix(".error").write_text(f"{type(error).__name__}: {error}", encoding="utf-8")


if __name__ == "__main__":
    main()
