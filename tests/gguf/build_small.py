"""Builds tiny GGUF files byte by byte from the specification, independent of the writer that is under test."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

U32, F32, BOOL, STRING, ARRAY = 4, 6, 7, 8, 9


@dataclass
class SmallGGUF:
    """Entries are `(key, type id, encoded value)`, tensors `(name, ne, type id, data)` with `ne` as in ggml."""

    version: int = 3
    order: str = "<"
    alignment: int = 32
    entries: list[tuple[bytes, int, bytes]] = field(default_factory=list)
    tensors: list[tuple[bytes, tuple[int, ...], int, bytes]] = field(default_factory=list)
    offsets: dict[bytes, int] = field(default_factory=dict)
    magic: bytes = b"GGUF"

    def pack(self, letters: str, *values: object) -> bytes:
        return struct.pack(self.order + letters, *values)

    def text(self, data: bytes) -> bytes:
        return self.pack("Q", len(data)) + data

    def string(self, key: str, value: bytes) -> SmallGGUF:
        return self.entry(key, STRING, self.text(value))

    def uint32(self, key: str, value: int) -> SmallGGUF:
        return self.entry(key, U32, self.pack("I", value))

    def array(self, key: str, element_type: int, count: int, payload: bytes) -> SmallGGUF:
        return self.entry(key, ARRAY, self.pack("IQ", element_type, count) + payload)

    def strings(self, key: str, values: list[bytes]) -> SmallGGUF:
        return self.array(key, STRING, len(values), b"".join(map(self.text, values)))

    def entry(self, key: str, type_id: int, payload: bytes) -> SmallGGUF:
        self.entries.append((key.encode(), type_id, payload))
        return self

    def tensor(self, name: str, ne: tuple[int, ...], type_id: int, data: bytes) -> SmallGGUF:
        self.tensors.append((name.encode(), ne, type_id, data))
        return self

    def header(self) -> bytes:
        parts = [self.magic, self.pack("IQQ", self.version, len(self.tensors), len(self.entries))]
        parts += [self.text(key) + self.pack("I", kind) + payload for key, kind, payload in self.entries]
        offset = 0
        for name, ne, kind, data in self.tensors:
            place = self.offsets.get(name, offset)
            parts.append(self.text(name) + self.pack(f"I{len(ne)}QIQ", len(ne), *ne, kind, place))
            offset += self._padded(len(data))
        return b"".join(parts)

    def build(self) -> bytes:
        header = self.header()
        body = b"".join(data.ljust(self._padded(len(data)), b"\0") for _, _, _, data in self.tensors)
        return header.ljust(self._padded(len(header)), b"\0") + body

    def write(self, path: Path) -> Path:
        path.write_bytes(self.build())
        return path

    def _padded(self, size: int) -> int:
        return -(-size // self.alignment) * self.alignment


def small_model(order: str = "<", version: int = 3) -> SmallGGUF:
    """Two matrices and a vector, and one metadata entry of each kind that real files have."""
    small = SmallGGUF(order=order, version=version)
    small.string("general.architecture", b"llama").uint32("llama.block_count", 2)
    small.entry("llama.rope.freq_base", F32, small.pack("f", 10000.0))
    small.entry("tokenizer.ggml.add_bos_token", BOOL, b"\1")
    small.strings("tokenizer.ggml.tokens", [b"a", "é".encode(), b"", b"\xff\xfe", b"x" * 300])
    small.array("tokenizer.ggml.scores", F32, 3, small.pack("3f", 0.5, -1.0, 2.0))
    small.array("tokenizer.ggml.token_type", 5, 3, small.pack("3i", 1, -3, 6))
    small.tensor("token_embd.weight", (4, 3), 0, floats(12, order + "f4"))
    small.tensor("blk.0.attn_q.weight", (4, 2), 1, floats(8, order + "f2"))
    small.tensor("output_norm.weight", (5,), 0, floats(5, order + "f4"))
    return small


def floats(count: int, dtype: str) -> bytes:
    """0.5, 1.5, 2.5 ... in the given type."""
    return (np.arange(count) + 0.5).astype(dtype).tobytes()
