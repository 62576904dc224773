"""How virsh says states, reasons and events, and how it sets a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len

STATES = (
    "no state",
    "running",
    "idle",
    "paused",
    "in shutdown",
    "shut off",
    "crashed",
    "pmsuspended",
)

REASONS: dict[int, tuple[str, ...]] = {
    0: ("unknown",),
    1: (
        *("unknown", "booted", "migrated", "restored", "from snapshot", "unpaused"),
        *("migration canceled", "save canceled", "event wakeup", "crashed", "post-copy"),
        "post-copy failed",
    ),
    2: ("unknown",),
    3: (
        *("unknown", "user", "migrating", "saving", "dumping", "I/O error", "watchdog"),
        *("from snapshot", "shutting down", "creating snapshot", "crashed", "starting up"),
        *("post-copy", "post-copy failed"),
    ),
    4: ("unknown", "user"),
    5: (
        *("unknown", "shutdown", "destroyed", "crashed", "migrated", "saved", "failed"),
        *("from snapshot", "daemon"),
    ),
    6: ("unknown", "panicked"),
    7: ("unknown",),
}

EVENTS = (
    *("Defined", "Undefined", "Started", "Suspended", "Resumed", "Stopped", "Shutdown"),
    *("PMSuspended", "Crashed"),
)
DETAILS: dict[int, tuple[str, ...]] = {
    0: ("Added", "Updated", "Renamed", "Snapshot"),
    1: ("Removed", "Renamed"),
    2: ("Booted", "Migrated", "Restored", "Snapshot", "Event wakeup"),
    3: (
        *("Paused", "Migrated", "I/O Error", "Watchdog", "Restored", "Snapshot", "API error"),
        *("Post-copy", "Post-copy Error"),
    ),
    4: ("Unpaused", "Migrated", "Snapshot", "Post-copy"),
    5: ("Shutdown", "Destroyed", "Crashed", "Migrated", "Saved", "Failed", "Snapshot"),
    6: ("Finished", "Finished after guest request", "Finished after host request"),
    7: ("Memory", "Disk"),
    8: ("Panicked", "Crashloaded"),
}
# The kinds of events, in the order of virDomainEventID.
EVENT_KINDS = (
    *("lifecycle", "reboot", "rtc-change", "watchdog", "io-error", "graphics", "io-error-reason"),
    *("control-error", "block-job", "disk-change", "tray-change", "pm-wakeup", "pm-suspend"),
    *("balloon-change", "pm-suspend-disk", "device-removed", "block-job-2", "tunable"),
    *("agent-lifecycle", "device-added", "migration-iteration", "job-completed"),
    *("device-removal-failed", "metadata-change", "block-threshold", "memory-failure"),
    "memory-device-size-change",
)


def pick(words: Sequence[str], number: int) -> str:
    """Return the word of a number, or `unknown`."""
    return words[number] if 0 <= number < len(words) else "unknown"


def state(number: int) -> str:
    """Return the word for a state."""
    return pick(STATES, number)


def reason(state_number: int, number: int) -> str:
    """Return the word for a state's reason."""
    return pick(REASONS.get(state_number, ()), number)


def _filled(cell: str, width: int) -> str:
    return cell + " " * (width - cell_len(cell))


def table(header: Sequence[str], rows: Sequence[Sequence[str]], bare: bool = False) -> str:
    """Set a table as virsh does: a space in front, three between, a rule under the header.

    `bare`: the rows alone.
    """
    lines = [*rows] if bare else [header, *rows]
    if not lines:
        return ""
    widths = [max(cell_len(line[column]) for line in lines) for column in range(len(header))]
    filled = [*widths[:-1], 0]  # the last column is not
    text = [
        " " + "   ".join(_filled(cell, width) for cell, width in zip(line, filled, strict=True))
        for line in lines
    ]
    if bare:
        return "\n".join(text) + "\n"
    rule = "-" * sum(width + 3 for width in widths)
    return "\n".join([text[0], rule, *text[1:]]) + "\n"


def facts(pairs: Sequence[tuple[str, str]], width: int) -> str:
    """Set `name:   value` lines; the lines of a value stand below each other."""
    indent = "\n" + " " * width
    return "".join(
        f"{name + ':':<{width}}{value.replace(chr(10), indent)}\n" for name, value in pairs
    )
