"""The formats of data files, a module each; `registry.open_file` is the door."""
