"""Encoders and decoders of GGML block types, exact to the byte."""
