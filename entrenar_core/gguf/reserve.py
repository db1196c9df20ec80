"""Reserves the space of a file on a thread of its own, while the process still gets ready.

Finding free pages, or free blocks, and clearing them takes a good part of the time of writing a large file, and needs
nothing but the size. A disk that is too full is noticed before anything is computed.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_NOT_POSSIBLE = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)
"""The file system cannot reserve: space is then found when it is written to."""


@contextmanager
def reserved(descriptor: int, n_bytes: int) -> Iterator[None]:
    """Reserve the first `n_bytes` of a file while the block runs; both are done afterwards.

    Raises:
        OSError: there is not enough space.
    """
    failures: list[OSError] = []
    thread = threading.Thread(target=_reserve, args=(descriptor, n_bytes, failures), name="entrenar-reserve")
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if failures:
        raise failures[0]


def _reserve(descriptor: int, n_bytes: int, failures: list[OSError]) -> None:
    if n_bytes <= 0 or not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(descriptor, 0, n_bytes)
    except OSError as error:
        if error.errno not in _NOT_POSSIBLE:
            failures.append(error)
