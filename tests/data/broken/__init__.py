"""A corpus of broken data: each case makes its files, and `NAME.txt` holds the message that it must get."""

from tests.data.broken import contents, csv_text, files, json_text, paths
from tests.data.broken.corpus import CASES

__all__ = ["CASES", "contents", "csv_text", "files", "json_text", "paths"]
