"""SentencePiece BPE by scores, exactly as llama.cpp does it, in plain Python.

Neighbouring symbols whose text together is a piece are candidates; the highest score merges first, the leftmost one
among equals. `spm.py` leaves to it only those words for which a list of ranked merges could decide differently.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping


def merge_by_score(word: str, scores: Mapping[str, float]) -> list[str]:
    """The parts of `word` after all merges; a part that is not in `scores` is a single character.

    Args:
        word: text in which a space is U+2581.
        scores: score of every piece that a merge may make.
    """
    parts = list(word)
    following = [*range(1, len(parts)), -1]
    preceding = list(range(-1, len(parts) - 1))
    queue: list[tuple[float, int, int, int]] = []

    def offer(left: int, right: int) -> None:
        if left < 0 or right < 0:
            return
        text = parts[left] + parts[right]
        score = scores.get(text)
        if score is not None:
            heapq.heappush(queue, (-score, left, right, len(text)))

    for index in range(1, len(parts)):
        offer(index - 1, index)
    while queue:
        _, left, right, length = heapq.heappop(queue)
        outdated = not parts[left] or not parts[right] or len(parts[left]) + len(parts[right]) != length
        if outdated:
            continue
        parts[left] += parts[right]
        parts[right] = ""
        following[left] = following[right]
        if following[right] >= 0:
            preceding[following[right]] = left
        offer(preceding[left], left)
        offer(left, following[left])
    return [part for part in parts if part]
