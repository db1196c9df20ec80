"""What a command does: a config joined to the parts that carry it out."""
