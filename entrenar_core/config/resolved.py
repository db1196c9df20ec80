"""A configuration with every default written out: as YAML for people and checkpoints, and as a hash."""

from __future__ import annotations

from typing import Any, ClassVar

import yaml

from entrenar_core.config.base import content_hash
from entrenar_core.config.environment import escape
from entrenar_core.config.root import Config
from entrenar_core.config.yaml_scalars import IMPLICIT_RESOLVERS, TAG


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    value = escape(value)
    return dumper.represent_scalar(f"{TAG}str", value, style=None if value.isprintable() else '"')


class _Yaml12Dumper(yaml.SafeDumper):
    """Quotes the texts that YAML 1.2 would read as something else, escapes line breaks and variables."""

    yaml_implicit_resolvers = IMPLICIT_RESOLVERS
    yaml_representers: ClassVar[dict[type[Any], Any]] = {**yaml.SafeDumper.yaml_representers, str: _text}


def resolved_yaml(config: Config) -> str:
    """YAML of the whole configuration, `version` first; reading it gives an equal Config."""
    content = config.model_dump(mode="json", by_alias=True)
    return yaml.dump(content, Dumper=_Yaml12Dumper, sort_keys=False, allow_unicode=True, width=110)


def config_hash(config: Config) -> str:
    """SHA-256 of everything that the configuration says, but for `training.output_dir`: a run that is only written
    elsewhere has the same hash."""
    content = config.model_dump(mode="json", by_alias=True)
    del content["training"]["output_dir"]
    return content_hash(content)
