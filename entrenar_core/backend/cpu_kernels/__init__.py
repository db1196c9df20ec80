"""Compiled CPU kernels, one file per family."""
