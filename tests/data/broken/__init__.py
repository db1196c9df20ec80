"""A corpus of broken data: `cases.py` makes the files, `NAME.txt` holds the message that each must get."""
