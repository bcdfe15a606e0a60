"""A program on a terminal of 80 columns and 24 rows, and what a person then sees on it."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable

import pexpect

COLUMNS, ROWS = 80, 24
_PARTS = re.compile(r"\x1b\[\??([\d;]*)([A-Za-z])|(.)", re.DOTALL)


class Screen:
    """The rows that a terminal shows: text wraps at the last column, rows leave at the top; colours are dropped."""

    def __init__(self) -> None:
        self._rows = [[" "] * COLUMNS for _ in range(ROWS)]
        self._row = self._column = 0

    def feed(self, text: str) -> None:
        for number, command, letter in _PARTS.findall(text):
            if command:
                self._move(command, int(number or 1) if number.isdigit() or not number else 1)
            elif letter == "\r":
                self._column = 0
            elif letter == "\n":
                self._down()
            elif letter.isprintable():
                if self._column == COLUMNS:
                    self._column = 0
                    self._down()
                self._rows[self._row][self._column] = letter
                self._column += 1

    def _move(self, command: str, count: int) -> None:
        if command == "A":
            self._row = max(0, self._row - count)
        elif command == "K":
            self._rows[self._row] = [" "] * COLUMNS
        else:
            assert command in "mhl", f"the screen of the tests does not know ESC[{count}{command}"

    def _down(self) -> None:
        if self._row == ROWS - 1:
            self._rows = [*self._rows[1:], [" "] * COLUMNS]
        else:
            self._row += 1

    @property
    def lines(self) -> list[str]:
        return ["".join(row).rstrip() for row in self._rows]

    def __str__(self) -> str:
        return "\n".join(self.lines)


class Terminal:
    """A child process on a pseudo-terminal. What it writes is read at once, as a terminal does."""

    def __init__(self, argv: list[str], *, folder: str, environ: dict[str, str]) -> None:
        self.screen = Screen()
        self._changed = threading.Condition()
        self._ended = False
        self._child = pexpect.spawn(
            argv[0], argv[1:], cwd=folder, env=environ | {"TERM": "xterm-256color"}, dimensions=(ROWS, COLUMNS),
            encoding="utf-8",
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        try:
            while True:
                text = self._child.read_nonblocking(4096, timeout=None)
                with self._changed:
                    self.screen.feed(text)
                    self._changed.notify_all()
        except pexpect.EOF:
            pass
        finally:  # also where the screen does not know a sequence: pytest shows the thread's error
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def until(self, seen: Callable[[str], bool], what: str, *, seconds: float = 120) -> str:
        """The screen, when `seen` holds for it."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or seen(str(self.screen)), seconds)
            assert seen(str(self.screen)), f"{what} is not on the screen{self._how()}:\n{self.screen}"
            return str(self.screen)

    def interrupt(self) -> int | None:
        """Ctrl-C. The exit code."""
        self._child.sendintr()
        return self.end()

    def end(self, *, seconds: float = 60) -> int | None:
        """The exit code, when the program has ended by itself."""
        self._reader.join(seconds)
        assert not self._reader.is_alive(), f"it did not end within {seconds:.0f} s:\n{self.screen}"
        self._child.close()
        return self._child.exitstatus

    def _how(self) -> str:
        return ", and it ended" if self._ended else ""
