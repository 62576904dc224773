"""The commands and events of the monitor: one table, from which arguments are checked and
query-commands and query-qmp-schema are answered. Names and members are those of QEMU's QAPI schema.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Protocol

from vmmuser.chardev import Chardev
from vmmuser.description import Description
from vmmuser.machine import Machine
from vmmuser.qmp.monitor import version
from vmmuser.qmp.types import (
    BOOL,
    EMPTY,
    INT,
    STR,
    Command,
    Enum,
    EventType,
    Json,
    ListOf,
    QmpError,
    Struct,
    Type,
    schema,
)
from vmmuser.virtio.blk import Counters


class Target(Protocol):
    """What commands act on."""

    machine: Machine
    description: Description

    @property
    def chardevs(self) -> Sequence[Chardev]:
        """The consoles' host ends."""

    def quit(self) -> None:
        """End the process, once the answer is on its way."""


COMMANDS: dict[str, Command] = {}

Run = Callable[..., Json]


def command(name: str, returns: Type = EMPTY, **arguments: Type) -> Callable[[Run], Run]:
    """Enter a function into the table; it gets the target, then the arguments by name."""

    def enter(run: Run) -> Run:
        members = {key.replace("_", "-"): what for key, what in arguments.items()}
        takes = Struct(f"q_obj_{name}-arg", members) if members else EMPTY
        COMMANDS[name] = Command(name, takes, returns, run)
        return run

    return enter


def call(target: Target, what: Command, arguments: dict[str, Json]) -> Json:
    """Run a command whose arguments were checked."""
    named = {key.replace("-", "_"): value for key, value in arguments.items()}
    result = what.run(target, **named)
    return {} if result is None else result


# -- the session ----------------------------------------------------------------------------------


@command("qmp_capabilities", **{"enable?": ListOf(Enum("QMPCapability", ("oob",)))})
def qmp_capabilities(target: Target, enable: Sequence[str] = ()) -> None:
    """No capability is offered, so none can be enabled."""
    for name in enable:
        raise QmpError(f"QMP capability {name} is not available")


VERSION_TRIPLE = Struct("VersionTriple", {"major": INT, "minor": INT, "micro": INT})


@command("query-version", Struct("VersionInfo", {"qemu": VERSION_TRIPLE, "package": STR}))
def query_version(target: Target) -> Json:
    """Our own version, where QEMU's would be."""
    return version()


@command("query-commands", ListOf(Struct("CommandInfo", {"name": STR})))
def query_commands(target: Target) -> Json:
    """Every row of the table."""
    return [{"name": name} for name in sorted(COMMANDS)]


SCHEMA_INFO = Struct("SchemaInfo", {"name": STR, "meta-type": STR})


@command("query-qmp-schema", ListOf(SCHEMA_INFO))
def query_qmp_schema(target: Target) -> Json:
    """Every command, event and type."""
    return schema(list(COMMANDS.values()), EVENTS)


# -- the machine ----------------------------------------------------------------------------------

RUN_STATE = Enum(
    "RunState",
    ("prelaunch", "running", "paused", "shutdown", "guest-panicked", "internal-error"),
)


@command("query-status", Struct("StatusInfo", {"running": BOOL, "status": RUN_STATE}))
def query_status(target: Target) -> Json:
    """The run state."""
    state = target.machine.state
    return {"running": state == "running", "status": state}


@command("query-name", Struct("NameInfo", {"name?": STR}))
def query_name(target: Target) -> Json:
    """The description's name."""
    return {"name": target.description.name}


@command("query-uuid", Struct("UuidInfo", {"UUID": STR}))
def query_uuid(target: Target) -> Json:
    """The description's UUID."""
    return {"UUID": target.description.uuid}


@command("query-kvm", Struct("KvmInfo", {"enabled": BOOL, "present": BOOL}))
def query_kvm(target: Target) -> Json:
    """It is always a KVM that is used, whatever is behind it."""
    return {"enabled": True, "present": True}


@command("query-target", Struct("TargetInfo", {"arch": STR}))
def query_target(target: Target) -> Json:
    """The guest's architecture."""
    return {"arch": "x86_64"}


CPU_PROPERTIES = Struct(
    "CpuInstanceProperties", {"socket-id?": INT, "core-id?": INT, "thread-id?": INT}
)
CPU_INFO = Struct(
    "CpuInfoFast",
    {
        "cpu-index": INT,
        "qom-path": STR,
        "thread-id": INT,
        "props?": CPU_PROPERTIES,
        "target": STR,
    },
)


@command("query-cpus-fast", ListOf(CPU_INFO))
def query_cpus_fast(target: Target) -> Json:
    """vCPUs, and the host's threads that they run on."""
    return [
        {
            "cpu-index": processor.vcpu.id,
            "qom-path": f"/machine/cpu[{processor.vcpu.id}]",
            "thread-id": processor.thread_id,
            "props": {"socket-id": 0, "core-id": processor.vcpu.id, "thread-id": 0},
            "target": "x86_64",
        }
        for processor in target.machine.processors
    ]


@command(
    "query-memory-size-summary",
    Struct("MemoryInfo", {"base-memory": INT, "plugged-memory?": INT}),
)
def query_memory_size_summary(target: Target) -> Json:
    """RAM in bytes; none can be plugged."""
    return {"base-memory": target.machine.memory.size, "plugged-memory": 0}


CHARDEV_INFO = Struct("ChardevInfo", {"label": STR, "filename": STR, "frontend-open": BOOL})


@command("query-chardev", ListOf(CHARDEV_INFO))
def query_chardev(target: Target) -> Json:
    """The consoles' host ends; the guest's are always open."""
    return [
        {"label": chardev.spec.id, "filename": chardev.filename, "frontend-open": True}
        for chardev in target.chardevs
    ]


@command("stop")
def stop(target: Target) -> None:
    """Hold the vCPUs and the guest's clock."""
    target.machine.pause()


@command("cont")
def cont(target: Target) -> None:
    """Let them go on."""
    target.machine.resume()


@command("system_reset")
def system_reset(target: Target) -> None:
    """Start anew."""
    target.machine.reset()


@command("system_powerdown")
def system_powerdown(target: Target) -> None:
    """Press the power button; what follows is up to the guest."""
    target.machine.power_button()


@command("inject-nmi")
def inject_nmi(target: Target) -> None:
    """Interrupt every vCPU, masked or not."""
    target.machine.inject_nmi()


@command("quit")
def quit_(target: Target) -> None:
    """End the process."""
    target.quit()


# -- disks ----------------------------------------------------------------------------------------

IMAGE_INFO = Struct(
    "ImageInfo", {"filename": STR, "format": STR, "virtual-size": INT, "actual-size?": INT}
)
CACHE_INFO = Struct("BlockdevCacheInfo", {"writeback": BOOL, "direct": BOOL, "no-flush": BOOL})
DETECT_ZEROES = Enum("BlockdevDetectZeroesOptions", ("off", "on", "unmap"))
THROTTLES = ("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr")
BLOCK_DEVICE_INFO = Struct(
    "BlockDeviceInfo",
    {
        "file": STR,
        "node-name?": STR,
        "ro": BOOL,
        "drv": STR,
        "backing_file_depth": INT,
        "encrypted": BOOL,
        "detect_zeroes": DETECT_ZEROES,
        **dict.fromkeys(THROTTLES, INT),
        "image": IMAGE_INFO,
        "cache": CACHE_INFO,
        "write_threshold": INT,
    },
)
BLOCK_INFO = Struct(
    "BlockInfo",
    {
        "device": STR,
        "qdev?": STR,
        "type": STR,
        "removable": BOOL,
        "locked": BOOL,
        "inserted?": BLOCK_DEVICE_INFO,
    },
)


def _inserted(target: Target, index: int) -> Json:
    disk, image = target.description.machine.disks[index], target.machine.board.images[index]
    info: dict[str, Json] = {"filename": disk.path, "format": "raw", "virtual-size": image.size}
    with contextlib.suppress(OSError):
        info["actual-size"] = os.fstat(image.fd).st_blocks * 512
    return {
        "file": disk.path,
        "node-name": disk.id,
        "ro": image.read_only,
        "drv": "raw",
        "backing_file_depth": 0,
        "encrypted": False,
        "detect_zeroes": "off",
        **dict.fromkeys(THROTTLES, 0),
        "image": info,
        "cache": {"writeback": True, "direct": False, "no-flush": False},
        "write_threshold": 0,
    }


@command("query-block", ListOf(BLOCK_INFO))
def query_block(target: Target) -> Json:
    """The disks, in the description's order."""
    return [
        {
            "device": disk.id,
            "qdev": f"/machine/{disk.id}",
            "type": "unknown",
            "removable": False,
            "locked": False,
            "inserted": _inserted(target, index),
        }
        for index, disk in enumerate(target.description.machine.disks)
    ]


BLOCK_DEVICE_STATS = Struct("BlockDeviceStats", dict.fromkeys(vars(Counters()), INT))
BLOCK_STATS = Struct(
    "BlockStats",
    {"device?": STR, "qdev?": STR, "node-name?": STR, "stats": BLOCK_DEVICE_STATS},
)


@command("query-blockstats", ListOf(BLOCK_STATS), **{"query-nodes?": BOOL})
def query_blockstats(target: Target, query_nodes: bool = False) -> Json:
    """Bytes, requests and nanoseconds of each disk since the process began."""
    return [
        {
            "device": disk.id,
            "qdev": f"/machine/{disk.id}",
            "node-name": disk.id,
            "stats": dict(vars(counters)),
        }
        for disk, counters in zip(
            target.description.machine.disks, target.machine.board.disk_counters, strict=True
        )
    ]


# -- events ---------------------------------------------------------------------------------------

SHUTDOWN_CAUSE = Enum(
    "ShutdownCause",
    (
        "host-error",
        "host-qmp-quit",
        "host-qmp-system-reset",
        "host-signal",
        "guest-shutdown",
        "guest-reset",
        "guest-panic",
    ),
)
PANIC_ACTION = Enum("GuestPanicAction", ("pause", "poweroff", "run"))
_CAUSE: dict[str, Type] = {"guest": BOOL, "reason": SHUTDOWN_CAUSE}

EVENTS = [
    EventType("STOP", EMPTY),
    EventType("RESUME", EMPTY),
    EventType("POWERDOWN", EMPTY),
    EventType("SHUTDOWN", Struct("q_obj_SHUTDOWN-arg", _CAUSE)),
    EventType("RESET", Struct("q_obj_RESET-arg", _CAUSE)),
    EventType("GUEST_PANICKED", Struct("q_obj_GUEST_PANICKED-arg", {"action": PANIC_ACTION})),
    EventType("GUEST_CRASHLOADED", Struct("q_obj_GUEST_CRASHLOADED-arg", {"action": PANIC_ACTION})),
]


@command("query-events", ListOf(Struct("EventInfo", {"name": STR})))
def query_events(target: Target) -> Json:
    """Every event of the table."""
    return [{"name": event.name} for event in EVENTS]
