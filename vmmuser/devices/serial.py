"""A 16550A UART (National PC16550D data sheet), with a transmitter that takes no time.

Characters written to THR leave at once. The host may hold such writes back (coalesced PIO): the
driver then learns of the empty transmitter when it next reads a register, as it would after a
quick transmission.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from kvm_core.errors import ConfigError
from vmmuser.device import IrqLine, Region, StandingAnswer, State

# Offsets; 0 and 1 are the divisor's while LCR_DLAB is set.
DATA, IER, IIR_FCR, LCR, MCR, LSR, MSR, SCR = range(8)

IER_RDA, IER_THRE, IER_RLS, IER_MS = 1, 2, 4, 8
IIR_NONE, IIR_MS, IIR_THRE, IIR_RDA, IIR_RLS, IIR_TIMEOUT = 0x01, 0x00, 0x02, 0x04, 0x06, 0x0C
FCR_ENABLE, FCR_CLEAR_RX, FCR_CLEAR_TX = 1, 2, 4
LCR_DLAB = 0x80
MCR_DTR, MCR_RTS, MCR_OUT1, MCR_OUT2, MCR_LOOP = 1, 2, 4, 8, 16
LSR_DR, LSR_OE, LSR_BI, LSR_THRE, LSR_TEMT = 1, 2, 0x10, 0x20, 0x40
MSR_CTS, MSR_DSR, MSR_RI, MSR_DCD = 0x10, 0x20, 0x40, 0x80

FIFO_BYTES = 16
TRIGGER_BYTES = (1, 4, 8, 14)
INPUT_LIMIT_BYTES = 1 << 20  # what the host may type ahead


class Sink(Protocol):
    """Where the characters go."""

    def write(self, data: bytes) -> None:
        """Take them; must not block for long."""


class Serial:
    """One UART: port region of eight registers, one interrupt, a sink for output, `receive` for
    input.
    """

    regions = (Region("pio", 8),)

    def __init__(
        self, irq: IrqLine, sink: Sink, lsr: StandingAnswer, ier: StandingAnswer
    ) -> None:
        """Start in the state after power-on; `lsr` and `ier` are these registers' answers."""
        self._irq = irq
        self._lsr, self._ier = lsr, ier
        self._sink = sink
        self._waiting: deque[int] = deque()  # typed, but not yet in the FIFO
        self._level = False
        self.reset()

    def reset(self) -> None:
        """See Device; 1200 baud is what the divisor happens to hold."""
        self.ier = self.lcr = self.mcr = self.scr = self.fcr = 0
        self.divisor = 0x60
        self._lsr_errors = 0
        self._msr_delta = 0
        self._thre_pending = False
        self._fifo: deque[int] = deque()
        self._update()

    @property
    def wants_thre(self) -> bool:
        """The driver waits for an interrupt about the transmitter, so held-back writes must be
        looked for.
        """
        return bool(self.ier & IER_THRE)

    # -- the guest's side ---------------------------------------------------------------------

    def read(self, region: int, offset: int, size: int) -> int:
        """See Device; wider reads take consecutive registers."""
        value = 0
        for i in range(min(size, 8 - offset)):
            value |= self._read(offset + i) << 8 * i
        return value

    def write(self, region: int, offset: int, size: int, value: int) -> None:
        """See Device; wider writes go to consecutive registers."""
        for i in range(min(size, 8 - offset)):
            self._write(offset + i, value >> 8 * i & 0xFF)

    def write_string(self, region: int, offset: int, data: bytes) -> None:
        """See StringDevice; what is printed is passed on as one piece."""
        if offset == DATA and not self.lcr & LCR_DLAB:
            self._transmit(data)
            return
        for value in data:
            self._write(offset, value)

    def _read(self, offset: int) -> int:
        match offset:
            case 5:  # LSR, which drivers poll
                return self._read_lsr()
            case 0 if self.lcr & LCR_DLAB:
                return self.divisor & 0xFF
            case 0:
                return self._read_data()
            case 1:
                return self._enabled_or_divisor()
            case 2:
                return self._read_iir()
            case 3:
                return self.lcr
            case 4:
                return self.mcr
            case 6:
                value = self._modem_status() | self._msr_delta
                self._msr_delta = 0
                self._update()
                return value
        return self.scr

    def _write(self, offset: int, value: int) -> None:
        match offset:
            case 0 if self.lcr & LCR_DLAB:
                self.divisor = self.divisor & 0xFF00 | value
            case 0:
                self._transmit(bytes((value,)))
            case 1 if self.lcr & LCR_DLAB:
                self.divisor = self.divisor & 0xFF | value << 8
                self._update()
            case 1:
                # Enabling the THRE interrupt while THR is empty raises it (PC16550D, 8.6.5).
                if value & IER_THRE and not self.ier & IER_THRE:
                    self._thre_pending = True
                self.ier = value & 0x0F
                self._update()
            case 2:
                self._write_fcr(value)
            case 3:
                self.lcr = value
                self._update()
            case 4:
                self._write_mcr(value)
            case 7:
                self.scr = value

    def _enabled_or_divisor(self) -> int:
        return self.divisor >> 8 if self.lcr & LCR_DLAB else self.ier

    def _line_status(self) -> int:
        return LSR_THRE | LSR_TEMT | self._lsr_errors | (LSR_DR if self._fifo else 0)

    def _read_lsr(self) -> int:
        value = self._line_status()
        if self._lsr_errors:
            self._lsr_errors = 0
            self._update()
        return value

    def _read_data(self) -> int:
        value = self._fifo.popleft() if self._fifo else 0
        self._fill()
        self._update()
        return value

    def _read_iir(self) -> int:
        cause = self._cause()
        if cause == IIR_THRE:  # reading IIR acknowledges this cause only
            self._thre_pending = False
            self._update()
        return cause | (0xC0 if self.fcr & FCR_ENABLE else 0)

    def _write_fcr(self, value: int) -> None:
        if (value ^ self.fcr) & FCR_ENABLE or value & FCR_CLEAR_RX:
            self._fifo.clear()
        self.fcr = value & 0xC9 if value & FCR_ENABLE else 0
        if value & FCR_CLEAR_TX:
            self._thre_pending = True
        self._fill()
        self._update()

    def _write_mcr(self, value: int) -> None:
        before = self._modem_status()
        self.mcr = value & 0x1F
        after = self._modem_status()
        changed = (before ^ after) >> 4
        # The ring indicator's delta is its trailing edge.
        delta = changed & 0x0B | (changed & 0x04 if before & MSR_RI else 0)
        self._msr_delta |= delta
        self._fill()
        self._update()

    def _modem_status(self) -> int:
        if not self.mcr & MCR_LOOP:
            return MSR_CTS | MSR_DSR | MSR_DCD
        value = MSR_CTS if self.mcr & MCR_RTS else 0
        value |= MSR_DSR if self.mcr & MCR_DTR else 0
        value |= MSR_RI if self.mcr & MCR_OUT1 else 0
        return value | (MSR_DCD if self.mcr & MCR_OUT2 else 0)

    def _transmit(self, data: bytes) -> None:
        self._thre_pending = True
        if self.mcr & MCR_LOOP:
            for value in data:
                self._put(value)
        else:
            self._sink.write(data)
        self._update()

    # -- the host's side ----------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Take input; what does not fit the FIFO waits until the guest has read. Caller holds the
        lock.
        """
        room = INPUT_LIMIT_BYTES - len(self._waiting)
        self._waiting.extend(data[: max(room, 0)])
        self._fill()
        self._update()

    def _capacity(self) -> int:
        return FIFO_BYTES if self.fcr & FCR_ENABLE else 1

    def _put(self, value: int) -> None:
        """A character from the line that cannot wait (loopback): overrun if there is no room."""
        if len(self._fifo) >= self._capacity():
            self._lsr_errors |= LSR_OE
            if self.fcr & FCR_ENABLE:
                return
            self._fifo.clear()
        self._fifo.append(value)

    def _fill(self) -> None:
        if self.mcr & MCR_LOOP:
            return
        while self._waiting and len(self._fifo) < self._capacity():
            self._fifo.append(self._waiting.popleft())

    # -- interrupts, and what polls -----------------------------------------------------------

    def _must_see_polls(self) -> bool:
        """Whether a read of LSR changes something, or held-back characters would."""
        return bool(self._lsr_errors or self.ier & IER_THRE or self.mcr & MCR_LOOP)

    def _cause(self) -> int:
        """The pending cause of highest priority, as IIR shows it."""
        if self.ier & IER_RLS and self._lsr_errors:
            return IIR_RLS
        if self.ier & IER_RDA and self._fifo:
            trigger = TRIGGER_BYTES[self.fcr >> 6] if self.fcr & FCR_ENABLE else 1
            # Below the trigger level the time-out tells; four characters' time is over at once
            # here.
            return IIR_RDA if len(self._fifo) >= trigger else IIR_TIMEOUT
        if self.ier & IER_THRE and self._thre_pending:
            return IIR_THRE
        if self.ier & IER_MS and self._msr_delta:
            return IIR_MS
        return IIR_NONE

    def _update(self) -> None:
        self._lsr.set(None if self._must_see_polls() else self._line_status())
        self._ier.set(self._enabled_or_divisor())
        # OUT2 gates the line on a PC; in loopback the pin is inactive.
        gate = self.mcr & (MCR_OUT2 | MCR_LOOP) == MCR_OUT2
        level = gate and self._cause() != IIR_NONE
        if level != self._level:
            self._level = level
            self._irq.set(level)

    # -- state --------------------------------------------------------------------------------

    def save(self) -> State:
        """See Device."""
        return {
            "v": 1,
            "ier": self.ier,
            "lcr": self.lcr,
            "mcr": self.mcr,
            "scr": self.scr,
            "fcr": self.fcr,
            "divisor": self.divisor,
            "lsr_errors": self._lsr_errors,
            "msr_delta": self._msr_delta,
            "thre_pending": self._thre_pending,
            "fifo": list(self._fifo),
        }

    def load(self, state: State) -> None:
        """See Device."""
        if state["v"] != 1:
            raise ConfigError(f"serial: saved by version {state['v']}, this one reads 1")
        for name in ("ier", "lcr", "mcr", "scr", "fcr", "divisor"):
            setattr(self, name, state[name])
        self._lsr_errors = state["lsr_errors"]
        self._msr_delta = state["msr_delta"]
        self._thre_pending = state["thre_pending"]
        self._fifo = deque(state["fifo"])
        self._update()
