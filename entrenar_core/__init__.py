"""The engine: everything between a config and a finished GGUF. It prints nothing and knows no command line."""

__version__ = "0.1.0"
