"""The YAML schema and how a file becomes a checked, frozen Config."""
