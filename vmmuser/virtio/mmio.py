"""The virtio-mmio transport, version 2 (virtio 1.2, section 4.2): registers in front of a
VirtioDevice.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from kvm_core.errors import BackendError, ConfigError
from vmmuser.device import IrqLine, Region, State
from vmmuser.log import Log
from vmmuser.memory import GuestMemory
from vmmuser.virtio.base import F_EVENT_IDX, F_VERSION_1, RING_FEATURES, VirtioDevice
from vmmuser.virtio.queue import Queue, QueueError

log = Log("kvmish.virtio")

MAGIC, VERSION, VENDOR = 0x74726976, 2, 0x4853494B

DEVICE_FEATURES_SEL, DRIVER_FEATURES, DRIVER_FEATURES_SEL = 0x014, 0x020, 0x024
QUEUE_SEL, QUEUE_NUM_MAX, QUEUE_NUM, QUEUE_READY, QUEUE_NOTIFY = 0x030, 0x034, 0x038, 0x044, 0x050
INTERRUPT_STATUS, INTERRUPT_ACK, STATUS = 0x060, 0x064, 0x070
QUEUE_DESC_LOW, QUEUE_DESC_HIGH = 0x080, 0x084
QUEUE_DRIVER_LOW, QUEUE_DRIVER_HIGH = 0x090, 0x094
QUEUE_DEVICE_LOW, QUEUE_DEVICE_HIGH = 0x0A0, 0x0A4
SHM_LEN_LOW, SHM_BASE_HIGH = 0x0B0, 0x0BC
CONFIG_GENERATION, CONFIG = 0x0FC, 0x100

STATUS_ACKNOWLEDGE, STATUS_DRIVER, STATUS_DRIVER_OK = 1, 2, 4
STATUS_FEATURES_OK, STATUS_NEEDS_RESET, STATUS_FAILED = 8, 64, 128
INT_USED, INT_CONFIG = 1, 2

SIZE = 0x200

_ADDRESSES = {
    QUEUE_DESC_LOW: ("desc", 0),
    QUEUE_DESC_HIGH: ("desc", 32),
    QUEUE_DRIVER_LOW: ("avail", 0),
    QUEUE_DRIVER_HIGH: ("avail", 32),
    QUEUE_DEVICE_LOW: ("used", 0),
    QUEUE_DEVICE_HIGH: ("used", 32),
}


class VirtioMmio:
    """One device on the bus. Interrupts are edges: the driver acknowledges before it looks at its
    rings.
    """

    regions = (Region("mmio", SIZE),)

    def __init__(self, device: VirtioDevice, memory: GuestMemory, irq: IrqLine) -> None:
        """`on_kick` (set by the board) defers serving to another thread; without it, kick serves
        at once.
        """
        self.device = device
        self.queues = [Queue(memory, size) for size in device.queue_sizes]
        self.errors = 0
        self.on_kick: Callable[[], None] | None = None
        self._held = False
        self._irq = irq
        self._offered = device.features | RING_FEATURES
        # Held while queues are served or set up; never by what an interrupt handler touches.
        self._serve_lock = threading.RLock()
        self._isr_lock = threading.Lock()
        self._isr = 0
        device.connect(self)
        self._clear()

    def _clear(self) -> None:
        self.status = 0
        self._driver_features = 0
        self._device_features_sel = self._driver_features_sel = self._queue_sel = 0
        with self._isr_lock:
            self._isr = 0

    def reset(self) -> None:
        """See Device; also what the driver's write of 0 to Status does."""
        with self._serve_lock:
            for queue in self.queues:
                queue.reset()
            self._clear()
            self.device.reset()

    # -- registers ----------------------------------------------------------------------------

    def read(self, region: int, offset: int, size: int) -> int:
        """See Device; outside of the configuration space only aligned 32-bit accesses mean
        something.
        """
        if offset >= CONFIG:
            config = self.device.read_config()
            return int.from_bytes(config[offset - CONFIG : offset - CONFIG + size], "little")
        if size != 4 or offset % 4:
            return 0
        return self._read_register(offset)

    def _read_register(self, offset: int) -> int:
        match offset:
            case 0x060:  # InterruptStatus
                return self._isr
            case 0x000:
                return MAGIC
            case 0x004:
                return VERSION
            case 0x008:
                return self.device.device_id
            case 0x00C:
                return VENDOR
            case 0x010:
                shift = 32 * self._device_features_sel
                return self._offered >> shift & 0xFFFFFFFF if shift <= 32 else 0
            case 0x034:
                queue = self._selected()
                return queue.max_size if queue else 0
            case 0x044:
                queue = self._selected()
                return int(queue.ready) if queue else 0
            case 0x070:
                return self.status
            case 0x0FC:  # ConfigGeneration: no device of ours changes its configuration
                return 0
        if SHM_LEN_LOW <= offset <= SHM_BASE_HIGH:
            return 0xFFFFFFFF  # no shared memory regions
        return 0

    def write(self, region: int, offset: int, size: int, value: int) -> None:
        """See Device."""
        if offset >= CONFIG:
            with self._serve_lock:
                self.device.write_config(offset - CONFIG, value.to_bytes(size, "little"))
            return
        if size != 4 or offset % 4:
            return
        match offset:
            case 0x064:  # InterruptACK
                with self._isr_lock:
                    self._isr &= ~value
            case 0x050:  # QueueNotify
                self.kick()
            case 0x014:
                self._device_features_sel = value
            case 0x024:
                self._driver_features_sel = value
            case 0x030:
                self._queue_sel = value
            case 0x020:
                self._write_features(value)
            case 0x070:
                self._write_status(value)
            case _:
                with self._serve_lock:
                    self._write_queue(offset, value)

    def _selected(self) -> Queue | None:
        return self.queues[self._queue_sel] if self._queue_sel < len(self.queues) else None

    def _write_features(self, value: int) -> None:
        if self.status & STATUS_FEATURES_OK or self._driver_features_sel > 1:
            return
        shift = 32 * self._driver_features_sel
        self._driver_features &= ~(0xFFFFFFFF << shift)
        self._driver_features |= value << shift

    def _write_status(self, value: int) -> None:
        if value == 0:
            self.reset()
            return
        value &= 0xFF
        acceptable = not self._driver_features & ~self._offered
        acceptable = acceptable and bool(self._driver_features & F_VERSION_1)
        if value & STATUS_FEATURES_OK and not self.status & STATUS_FEATURES_OK and not acceptable:
            value &= ~STATUS_FEATURES_OK
        before, self.status = self.status, value | self.status & STATUS_NEEDS_RESET
        if value & STATUS_DRIVER_OK and not before & STATUS_DRIVER_OK:
            if not value & STATUS_FEATURES_OK:
                self._broken("DRIVER_OK without FEATURES_OK")
                return
            with self._serve_lock:
                self.device.activate(self._driver_features)
            self.kick()

    def _write_queue(self, offset: int, value: int) -> None:
        queue = self._selected()
        if queue is None:
            return
        if offset == QUEUE_READY:
            if value & 1 and not queue.ready:
                try:
                    queue.set_ready(bool(self._driver_features & F_EVENT_IDX))
                except QueueError as error:
                    self._broken(str(error))
            elif not value & 1:
                queue.ready = False
            return
        if queue.ready:
            return  # section 4.2.2.2: not while the queue is live
        if offset == QUEUE_NUM:
            queue.size = value
        elif offset in _ADDRESSES:
            name, shift = _ADDRESSES[offset]
            kept = getattr(queue, name) & ~(0xFFFFFFFF << shift)
            setattr(queue, name, kept | value << shift)

    # -- the device's side --------------------------------------------------------------------

    def kick(self) -> None:
        """See Host."""
        if self.on_kick is not None:
            self.on_kick()
        else:
            self.serve()

    def serve(self) -> None:
        """Let the device serve its queues; a broken driver is marked, counted and logged once."""
        with self._serve_lock:
            running = self.status & (STATUS_DRIVER_OK | STATUS_NEEDS_RESET) == STATUS_DRIVER_OK
            if self._held or not running:
                return
            try:
                self.device.serve()
            except QueueError as error:
                self._broken(str(error))
            except BackendError as error:
                self._broken(f"backend: {error}")

    def hold(self) -> None:
        """Serve nothing until release: the machine is paused, its memory stays as it is. Waits for
        what is under way.
        """
        with self._serve_lock:
            self._held = True

    def release(self) -> None:
        """Serve again, beginning with what has come meanwhile."""
        with self._serve_lock:
            self._held = False
        self.kick()

    def used(self, queue: int) -> None:
        """See Host."""
        if self.queues[queue].should_interrupt():
            self._interrupt(INT_USED)

    def _interrupt(self, cause: int) -> None:
        with self._isr_lock:
            self._isr |= cause
        self._irq.pulse()

    def _broken(self, why: str) -> None:
        self.errors += 1
        if self.errors == 1:
            log.warning("virtio device %d: %s; it needs a reset", self.device.device_id, why)
        self.status |= STATUS_NEEDS_RESET
        if self.status & STATUS_DRIVER_OK:
            self._interrupt(INT_CONFIG)

    # -- state --------------------------------------------------------------------------------

    def save(self) -> State:
        """See Device."""
        with self._serve_lock:
            return {
                "v": 1,
                "status": self.status,
                "driver_features": self._driver_features,
                "selectors": (
                    self._device_features_sel,
                    self._driver_features_sel,
                    self._queue_sel,
                ),
                "isr": self._isr,
                "queues": [queue.save() for queue in self.queues],
            }

    def load(self, state: State) -> None:
        """See Device."""
        if state["v"] != 1:
            raise ConfigError(f"virtio-mmio: saved by version {state['v']}, this one reads 1")
        with self._serve_lock:
            self.reset()
            for queue, saved in zip(self.queues, state["queues"], strict=True):
                queue.load(saved)
            self.status = state["status"]
            self._driver_features = state["driver_features"]
            selectors = state["selectors"]
            self._device_features_sel, self._driver_features_sel, self._queue_sel = selectors
            self._isr = state["isr"]
            if self.status & STATUS_DRIVER_OK:
                self.device.activate(self._driver_features)
        self.kick()
