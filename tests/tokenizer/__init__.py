"""Tests of entrenar_core/tokenizer."""
