"""Read one large JSON document value by value, without holding the document."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TextIO

_CHUNK = 1 << 20
_SPACE = " \t\r\n"


class JSONStream:
    """A JSON document, read value by value.

    Args:
        file: Text file at the start of the document.
        chunk: Characters read at a time, at least.
    """

    def __init__(self, file: TextIO, chunk: int = _CHUNK) -> None:
        self._file = file
        self._chunk = chunk
        self._buffer = ""
        self._at = 0
        self._line, self._counted = 1, 0
        self._decoder = json.JSONDecoder()

    @property
    def line(self) -> int:
        """Line of the next value, from 1."""
        self.peek()
        self._line += self._buffer.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line

    def elements(self, opening: str) -> Iterator[str | int]:
        """Step through the list (``"["``) or object (``"{"``) that comes next; the caller reads each value.

        Yields:
            The index of the next element of a list, or the key of the next member of an object.
        """
        closing = {"[": "]", "{": "}"}[opening]
        self._take(opening)
        index = 0
        while self.peek() != closing:
            if index:
                self._take(",")
            if opening == "{":
                if self.peek() != '"':
                    raise ValueError(f"line {self.line}: expected a key in quotation marks, found {self.peek()!r}")
                key = self.value()
                self._take(":")
                yield key
            else:
                yield index
            index += 1
        self._take(closing)

    def peek(self) -> str:
        """The next character that is not white space; empty at the end."""
        while True:
            while self._at < len(self._buffer):
                if self._buffer[self._at] not in _SPACE:
                    return self._buffer[self._at]
                self._at += 1
            if not self._fill(self._chunk):
                return ""

    def value(self) -> Any:
        """The next value, whole.

        Raises:
            ValueError: If it is no JSON; the message has its line.
        """
        self.peek()
        grow = self._chunk
        while True:
            try:
                value, end = self._decoder.raw_decode(self._buffer, self._at)
            except json.JSONDecodeError as error:
                # An error at the end of what was read, or in a string that has no end yet, may be cured by more text.
                curable = error.pos >= len(self._buffer) - 16 or error.msg.startswith("Unterminated string")
                if curable and self._fill(grow):
                    grow *= 2
                    continue
                line = self.line + self._buffer.count("\n", self._at, error.pos)
                raise ValueError(f"line {line}: no valid JSON ({error.msg})") from error
            except RecursionError as error:
                raise ValueError(f"line {self.line}: the JSON is nested too deeply to read") from error
            if len(self._buffer) - end <= 2 and self._fill(grow):
                continue  # a number may go on: 1 may turn out to be 1e+5
            self._at = end
            return value

    def _take(self, expected: str) -> None:
        found = self.peek()
        if found != expected:
            raise ValueError(f"line {self.line}: expected {expected!r}, found {found or 'the end of the file'!r}")
        self._at += 1

    def _fill(self, size: int) -> bool:
        """Drop what was read, append more; False at the end of the file."""
        more = self._file.read(size)
        if not more:
            return False
        self._line += self._buffer.count("\n", self._counted, self._at)
        self._buffer = self._buffer[self._at :] + more
        self._at = self._counted = 0
        return True
