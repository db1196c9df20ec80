"""The cut-offs of type inference, in one place; docs/inference.md says what each of them is for.

They are in the spirit of Ludwig's automatic configuration: a share and a number of distinct values, words per value,
sequences of whole numbers. Missing values (null, NaN, a blank string) are left out before anything is compared.
"""

from __future__ import annotations

TEXT_MIN_WORDS = 5.0
"""Strings of this many words on average are text, however often they repeat."""

TEXT_MIN_CHARS = 100.0
"""Strings of this many characters on average are text too: code, and scripts that put no spaces between words."""

CATEGORY_MAX_SHARE = 0.5
"""A category has at most this share of distinct values: each occurs twice on average."""

CATEGORY_MAX_DISTINCT = 1000
"""A category has at most this many distinct values; more are names."""

CODES_MAX_DISTINCT = 10
"""Whole numbers without a gap, from -1, 0 or 1 on, are the codes of a category up to this many; more are numbers."""

LABEL_FREE_ROWS = 20
"""With fewer values than this a share says nothing, so a column that is named as a label is taken as one."""

ID_MIN_ROWS = 10
"""Fewer values than this are not enough to see a sequence or a set of unique words."""

ID_MIN_DENSITY = 0.5
"""Unique whole numbers that fill this share of their range are a sequence: an id."""

ID_EVEN_STEPS = 0.9
"""Unique whole numbers of which this share lies at even distances (within a factor of two) are an id as well: a sample
takes every so many rows of a sequence."""

ID_MAX_CHARS = 128.0
"""Unique strings without a space in them are ids (hashes, URLs, file names) up to this many characters on average."""

MESSAGES_MIN_SHARE = 0.9
"""Strings are messages when this share of them looks like the JSON of messages; the others are mistakes in rows."""

MESSAGES_PARSED = 50
"""Values that are parsed as JSON, at most, after all of them looked like it."""

MIXED_MIN_SHARE = 0.9
"""Strings of which this share is numbers or dates are likely to be meant so: the reason names one that is not."""

DISTINCT_LISTED = 100
"""Distinct values that a column type carries, at most."""
