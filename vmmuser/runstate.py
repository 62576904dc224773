"""What state a machine is in, what it tells of its changes, and what it is to do when the guest
asks for one: in QMP's words (QEMU's QAPI schema, run-state).
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

RunState = Literal["prelaunch", "running", "paused", "shutdown", "guest-panicked", "internal-error"]
# From these only a reset leads on.
NEEDS_RESET = ("shutdown", "internal-error")

Wish = Literal["power-off", "reset", "triple-fault", "panic", "error"]


class Event(NamedTuple):
    """Something that happened to the machine, as QMP names it."""

    name: str
    data: dict[str, Any]


class Policy(NamedTuple):
    """What follows when the guest powers off, resets, or crashes."""

    on_poweroff: Literal["exit", "pause"] = "exit"
    on_reboot: Literal["reset", "exit"] = "reset"
    on_crash: Literal["exit", "reset", "pause"] = "exit"


class Request(NamedTuple):
    """What the guest (or the core on its behalf) asks for, and how to tell a user."""

    wish: Wish
    message: str
