"""A process that answers in lines of JSON, and is never waited for longer than was said.

Its standard output carries nothing else: whatever libraries print there goes to its log, with its standard error.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Message = dict[str, Any]
_STOP_SECONDS = 10
_ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
"""Nothing is fetched, and nothing starts threads before it is asked to."""


class ChildEnded(RuntimeError):
    """The process ended while something was expected of it."""


class ChildTimedOut(RuntimeError):
    """The process said nothing for as long as it was given."""


class Child:
    """A module run in a process of its own.

    Args:
        module: dotted name.
        arguments: of its command line.
        log: where its standard error goes, at the end of what is there.
    """

    def __init__(self, module: str, arguments: Sequence[str], log: Path) -> None:
        self.module = module
        self._log = log.open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, **_ENVIRONMENT},
        )
        self._lines: queue.Queue[bytes | None] = queue.Queue()
        threading.Thread(target=self._read_lines, daemon=True).start()

    def receive(self, seconds: float) -> Message:
        """The next message.

        Raises:
            ChildEnded: there will be none.
            ChildTimedOut: there was none within these seconds.
        """
        try:
            line = self._lines.get(timeout=max(0.0, seconds))
        except queue.Empty:
            raise ChildTimedOut(f"{self.module} said nothing for {seconds:.0f} s") from None
        if line is None:
            self._lines.put(None)
            raise ChildEnded(f"{self.module} ended with status {self._process.wait()}")
        message: Message = json.loads(line)
        return message

    def send(self, message: Message) -> None:
        """Tell it something.

        Raises:
            ChildEnded: it does not listen any more.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise ChildEnded(f"{self.module} ended with status {self._process.wait()}") from None

    def stop(self) -> None:
        """Close its input, which ends it; kill it if it does not end."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
            self._process.wait(_STOP_SECONDS)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self.kill()
        self._log.close()

    def kill(self) -> None:
        """End it now."""
        self._process.kill()
        self._process.wait()

    def _read_lines(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)


def message_stream() -> Callable[[Message], None]:
    """The child's side: what sends a message. From then on, whatever is printed goes to the log."""
    stream = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def send(message: Message) -> None:
        print(json.dumps(message), file=stream, flush=True)

    return send
