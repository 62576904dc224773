"""Standing answers: bytes that reads of ports get without an exit to Python (runner.h).

A vCPU's loop gives them as they stand at the moment of the read, like registers of hardware.
"""

from __future__ import annotations

from ctypes import Array, c_uint32

PLACES = 8
_STANDS = 0x100


class StandingAnswers:
    """The answers of one VM, on all its vCPUs. One thread at a time may change them."""

    def __init__(self) -> None:
        """Start with none."""
        self.table: Array[c_uint32] = (c_uint32 * PLACES)()
        self._answers: list[StandingAnswer] = []

    def at(self, port: int) -> StandingAnswer:
        """Return a port's answer, which is none yet. :raise ValueError: if there is no room."""
        if len(self._answers) == PLACES:
            raise ValueError(f"port {port:#x}: only {PLACES} ports can have standing answers")
        answer = StandingAnswer(self, len(self._answers), port)
        self._answers.append(answer)
        return answer

    def show(self, answer: StandingAnswer) -> None:
        """Let the vCPUs see it as it is now."""
        self.table[answer.place] = answer.word


class StandingAnswer:
    """What one port reads as, and whether it stands."""

    def __init__(self, answers: StandingAnswers, place: int, port: int) -> None:
        """Belong to `answers`, at a place of the table."""
        self._answers, self.place, self._port = answers, place, port
        self.word = 0

    def set(self, value: int | None) -> None:
        """Let reads get this byte from now on; None: let them exit."""
        word = 0 if value is None else self._port << 16 | _STANDS | value
        if word != self.word:
            self.word = word
            self._answers.show(self)
