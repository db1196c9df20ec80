"""Modules, layers and one file per architecture."""
