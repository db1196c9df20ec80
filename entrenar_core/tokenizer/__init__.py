"""Tokenizers built from GGUF metadata, and training of new ones."""
