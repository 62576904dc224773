"""libvirt's numbers of states, reasons and lifecycle events: virDomainState and what follows."""

from __future__ import annotations

from enum import IntEnum


class State(IntEnum):
    """virDomainState."""

    NOSTATE = 0
    RUNNING = 1
    BLOCKED = 2
    PAUSED = 3
    SHUTDOWN = 4
    SHUTOFF = 5
    CRASHED = 6


class Running(IntEnum):
    """Reasons of RUNNING."""

    UNKNOWN = 0
    BOOTED = 1
    UNPAUSED = 5


class Paused(IntEnum):
    """Reasons of PAUSED."""

    UNKNOWN = 0
    USER = 1
    SHUTTING_DOWN = 8
    STARTING_UP = 11


class Shutoff(IntEnum):
    """Reasons of SHUTOFF."""

    UNKNOWN = 0
    SHUTDOWN = 1
    DESTROYED = 2
    CRASHED = 3
    FAILED = 6


class Crashed(IntEnum):
    """Reasons of CRASHED."""

    UNKNOWN = 0
    PANICKED = 1


class Event(IntEnum):
    """virDomainEventType."""

    DEFINED = 0
    UNDEFINED = 1
    STARTED = 2
    SUSPENDED = 3
    RESUMED = 4
    STOPPED = 5
    SHUTDOWN = 6
    CRASHED = 8


class Stopped(IntEnum):
    """Details of STOPPED."""

    SHUTDOWN = 0
    DESTROYED = 1
    CRASHED = 2
    FAILED = 5


DEFINED_ADDED, DEFINED_UPDATED, DEFINED_RENAMED = 0, 1, 2
UNDEFINED_REMOVED, UNDEFINED_RENAMED = 0, 1
SHUTDOWN_GUEST = 1

EVENT_LIFECYCLE, EVENT_REBOOT, EVENT_LAST = 0, 1, 26  # virDomainEventID
