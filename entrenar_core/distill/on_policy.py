"""On-policy distillation: the student writes, and learns what the teachers would have said there (GKD, Agarwal et al.
2024).

With a given probability a micro-batch is replaced by the student's own continuations of its prompts. A document's
prompt is what stands before its first target; where everything is a target, its first tokens are. Whether, and what, is
drawn by (seed, step, micro-batch), so a resumed run writes the same.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from entrenar_core.data.batch import IGNORE, Batch
from entrenar_core.data.pack import ROW_MULTIPLE
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.model.generation import Generated, Sampling, generate_batch
from entrenar_core.model.module import PassKey

_STREAM = 0x0D15711
"""Sets these draws apart from others with the same numbers."""


@dataclass(frozen=True)
class OnPolicy:
    """How often and how the student writes.

    Attributes:
        fraction: probability that a micro-batch is the student's.
        max_tokens: of a continuation.
        prompt_tokens: of a document that is a target as a whole.
        temperature, top_p: of the student's draws.
        stop_ids: tokens that end a text; they are a target too.
        vocab_size: ids that may be drawn.
        pad_id: fills rows up.
        context_length: of the teacher that can read least; None: no less than the student.
    """

    fraction: float
    max_tokens: int
    prompt_tokens: int
    temperature: float
    top_p: float
    stop_ids: Collection[int]
    vocab_size: int
    pad_id: int = 0
    context_length: int | None = None

    def is_due(self, key: PassKey) -> bool:
        """Whether the student writes in this pass."""
        rng = np.random.default_rng([_STREAM, key.seed, key.step, key.micro_batch])
        return bool(rng.random() < self.fraction)

    def written(self, student: LanguageModel, batch: Batch, key: PassKey) -> Batch | None:
        """The student's continuations of the prompts of a batch; None where there is no room for any."""
        longest = self.longest_text(student.spec.context_length)
        prompts = [prompt for prompt in prompts_of(batch, self.prompt_tokens) if len(prompt) < longest]
        if not prompts:
            return None
        seed = int(np.random.default_rng([_STREAM, key.seed, key.step, key.micro_batch, 1]).integers(2**31))
        room = [longest - len(prompt) for prompt in prompts]

        def is_full(number: int, _: int) -> bool:
            room[number] -= 1
            return room[number] == 0

        found = generate_batch(
            student,
            prompts,
            max_tokens=min(self.max_tokens, max(room)),
            sampling=Sampling(self.temperature, self.top_p, seed),
            stop_ids=self.stop_ids,
            vocab_size=self.vocab_size,
            is_over=is_full,
        )
        return batch_of(prompts, found, self.pad_id)

    def longest_text(self, context_length: int) -> int:
        """The most tokens of a prompt and what a student with this context writes after it."""
        return min(context_length, self.context_length or context_length) - 1


def prompts_of(batch: Batch, prompt_tokens: int) -> list[list[int]]:
    """The prompt of each document of a batch that has a target."""
    found = []
    for tokens, labels, starts in zip(batch.tokens, batch.labels, batch.starts, strict=True):
        for start in np.unique(starts[labels >= 0]):
            inside = starts == start
            document, targets = tokens[inside], labels[inside] >= 0
            before = int(np.argmax(targets)) + 1
            length = before if before > 1 else min(prompt_tokens, len(document))
            found.append(document[:length].tolist())
    return found


def batch_of(prompts: Sequence[Sequence[int]], written: Sequence[Generated], pad_id: int) -> Batch | None:
    """Prompts with what was written after them, one a row; only what was written is a target.

    None if nothing was written at all.
    """
    texts = []
    for prompt, one in zip(prompts, written, strict=True):
        answer = [*one.ids, *(() if one.stop_id is None else (one.stop_id,))]
        if answer:
            texts.append(([*prompt, *answer], len(prompt)))
    if not texts:
        return None
    width = max(len(tokens) for tokens, _ in texts) - 1
    width = -(-width // ROW_MULTIPLE) * ROW_MULTIPLE
    shape = (len(texts), width)
    tokens, labels = np.full(shape, pad_id, np.int32), np.full(shape, IGNORE, np.int32)
    positions = np.zeros(shape, np.int32)
    starts = np.tile(np.arange(width, dtype=np.int32), (len(texts), 1))
    for row, (text, n_prompt) in enumerate(texts):
        length = len(text) - 1
        tokens[row, :length] = text[:-1]
        labels[row, n_prompt - 1 : length] = text[n_prompt:]
        positions[row, :length] = np.arange(length)
        starts[row, :length] = 0
    n_tokens = sum(len(text) - 1 for text, _ in texts)
    return Batch(tokens, labels, positions, starts, n_tokens, int(np.count_nonzero(labels >= 0)))
