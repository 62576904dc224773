"""The JSON description of a machine that `kvmish vm` runs: its fields, checked one by one.

What is wrong is told with its path within the JSON (`disks[0].path`), all of it at once.
"""

from __future__ import annotations

import difflib
import json
import os
import stat
import uuid as uuids
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from kvm_core import engines
from kvm_core.api import cpu_model_names
from kvm_core.errors import ConfigError
from vmmuser.config import MAX_MEMORY_MIB, MIN_MEMORY_MIB, Disk, MachineConfig

MAX_FILE_BYTES = 1 << 20
# unix(7): sun_path has 107 bytes; /proc/self/fd/N/ stands for a directory with a longer name.
MAX_SOCKET_NAME_BYTES = 80
MAX_DISK_SERIAL_BYTES = 20  # virtio 1.2, 5.2.6: VIRTIO_BLK_ID_BYTES

Backend = Literal["pty", "unix", "stdio", "file", "null"]
OnPoweroff = Literal["exit", "pause"]
OnReboot = Literal["reset", "exit"]
OnCrash = Literal["exit", "reset", "pause"]


@dataclass(frozen=True)
class ConsoleSpec:
    """One console of the guest, and where its host end is."""

    id: str
    device: Literal["serial", "virtio"]
    backend: Backend
    path: str = ""  # of a unix socket that is listened on, or of a file
    log: str = ""  # a file that everything the guest prints is added to


@dataclass(frozen=True)
class Description:
    """A machine, and the process that runs it."""

    name: str
    uuid: str
    machine: MachineConfig
    engine: str = ""  # the core chooses
    kvm: str = "direct"
    consoles: tuple[ConsoleSpec, ...] = ()
    qmp: str = ""
    paused: bool = False
    on_poweroff: OnPoweroff = "exit"
    on_reboot: OnReboot = "reset"
    on_crash: OnCrash = "exit"
    pidfile: str = ""
    log: str = ""


class _Table:
    """One JSON object being read: each field is taken once, what is left is unknown."""

    def __init__(self, value: object, where: str, problems: list[str], base: Path) -> None:
        self._where, self._problems, self._base = where, problems, base
        self._known: list[str] = []
        self._values: dict[str, Any] = {}
        self._is_table = True
        if isinstance(value, dict):
            self._values = dict(value)
        else:
            self.problem("", f"is {_kind(value)}; give an object")
            self._is_table = False

    def path(self, field: str) -> str:
        """Name a field from the top of the file."""
        return ".".join(part for part in (self._where, field) if part)

    def problem(self, field: str, text: str) -> None:
        """Note something that is wrong."""
        where = self.path(field)
        if self._is_table:  # otherwise that was said, and its fields are nothing more
            self._problems.append(f"{where}: {text}" if where else text)

    def _take(self, field: str, kind: type, article: str, default: object) -> Any:
        self._known.append(field)
        value = self._values.pop(field, None)
        if value is None:
            if default is None:
                self.problem(field, f"is missing; give {article}")
            return default
        if type(value) is not kind:
            self.problem(field, f"is {_kind(value)}; give {article}")
            return None
        return value

    def text(self, field: str, what: str, default: str | None = None, limit: int = 65535) -> str:
        """Take a string without NUL or other control characters."""
        value = self._take(field, str, what, default)
        if not isinstance(value, str):
            return ""
        wrong = ""
        if any(ord(char) < 32 or ord(char) == 127 for char in value):
            wrong = "has a control character; leave it out"
        elif any(0xD800 <= ord(char) < 0xE000 for char in value):
            wrong = "has half a surrogate pair; leave it out"
        elif len(value.encode()) > limit:
            wrong = f"is longer than {limit} bytes; shorten it"
        elif not value and default is None:
            wrong = f"is empty; give {what}"
        if wrong:
            self.problem(field, wrong)
        return "" if wrong else value

    def number(self, field: str, low: int, high: int, what: str, default: int) -> int:
        """Take an integer within bounds."""
        value = self._take(field, int, what, default)
        if isinstance(value, int) and not low <= value <= high:
            self.problem(field, f"is {value}; give {low} to {high}")
        return value if isinstance(value, int) else default

    def flag(self, field: str, default: bool = False) -> bool:
        """Take true or false."""
        return bool(self._take(field, bool, "true or false", default))

    def choice(self, field: str, choices: Iterable[str], default: str | None) -> Any:
        """Take one of some words."""
        words = list(choices)
        listed = f"one of {', '.join(words)}"
        value = self._take(field, str, listed, default)
        if isinstance(value, str) and value not in words and value != default:
            self.problem(field, f"{value!r} is not known; give {listed}")
        return value

    def file(self, field: str, what: str, default: str | None = None) -> str:
        """Take the name of a file; relative names begin at the description's directory."""
        name = self.text(field, what, default, limit=4095)
        return str(self._base / name) if name else ""

    def existing(self, field: str, what: str, default: str | None = None) -> str:
        """Take the name of a file that is there and can be read."""
        name = self.file(field, what, default)
        if name:
            try:
                mode = os.stat(name).st_mode
                readable = os.access(name, os.R_OK)
            except OSError as error:
                self.problem(field, f"{name}: {error.strerror}; name {what}")
                return name
            if stat.S_ISDIR(mode):
                self.problem(field, f"{name}: is a directory; name {what}")
            elif not readable:
                self.problem(field, f"{name}: Permission denied; make it readable")
        return name

    def socket(self, field: str, default: str | None = None) -> str:
        """Take the name of a unix socket to listen on."""
        name = self.file(field, "the path of a unix socket", default)
        if len(os.path.basename(os.fsencode(name))) > MAX_SOCKET_NAME_BYTES:
            limit = f"a socket's name has at most {MAX_SOCKET_NAME_BYTES} bytes"
            self.problem(field, f"{name}: {limit}; shorten it")
        return name

    def tables(self, field: str) -> Iterator[_Table]:
        """Take a list of objects."""
        values = self._take(field, list, "a list", [])
        for index, value in enumerate(values or []):
            yield _Table(value, f"{self.path(field)}[{index}]", self._problems, self._base)

    def has(self, field: str) -> bool:
        """Whether the field stands there, and was not taken yet."""
        return self._values.get(field) is not None

    def end(self) -> None:
        """Complain about what nobody took."""
        for field in self._values:
            close = difflib.get_close_matches(field, self._known, 1)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(self._known)}"
            self.problem(field, f"there is no such field; {hint}")


def _kind(value: object) -> str:
    names = {str: "a string", bool: "a truth value", int: "a number", float: "a fraction"}
    names |= {list: "a list", dict: "an object"}
    return names.get(type(value), "null")


def read(path: str) -> Description:
    """Read a file, `-` for standard input. :raise ConfigError: with all that is wrong with it."""
    name = "standard input" if path == "-" else path
    try:
        with open(0 if path == "-" else path, "rb", closefd=path != "-") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"--config {path}: {error.strerror}; name a JSON description") from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"--config {path}: is larger than 1 MiB; that is no description")
    base = Path.cwd() if path == "-" else Path(path).absolute().parent
    try:
        return parse(data, base)
    except ConfigError as error:
        lines = [f"{name}: {line}" for line in str(error).splitlines()]
        raise ConfigError("\n".join(lines)) from None


def parse(data: bytes, base: Path) -> Description:
    """Check a description; `base` is where relative file names begin. :raise ConfigError: with
    one line for each thing that is wrong.
    """
    problems: list[str] = []
    value = _load(data, problems)
    top = _Table(value, "", problems, base)
    result = _description(top)
    top.end()
    if problems:
        raise ConfigError("\n".join(problems))
    return result


def _load(data: bytes, problems: list[str]) -> object:
    def pairs(items: list[tuple[str, object]]) -> dict[str, object]:
        twice = {key for at, (key, _) in enumerate(items) if key in dict(items[:at])}
        problems.extend(f"{key}: stands there twice; keep one" for key in sorted(twice))
        return dict(items)

    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=pairs)
    except UnicodeDecodeError as error:
        raise ConfigError(f"byte {error.start}: is not UTF-8; save it as UTF-8") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ConfigError(f"{where}: is not JSON ({error.msg}); correct it") from None
    except RecursionError:
        raise ConfigError("is nested too deeply; a description has three levels") from None
    except ValueError as error:  # an integer of thousands of digits
        raise ConfigError(f"is not usable JSON ({error}); correct it") from None


def _description(top: _Table) -> Description:
    name = top.text("name", "the machine's name", limit=255)
    if name in (".", "..") or "/" in name:
        top.problem("name", f"{name!r} cannot be a machine's name; leave out slashes")
    uuid = top.text("uuid", "a UUID", str(uuids.uuid4()))
    try:
        uuid = str(uuids.UUID(uuid))
    except ValueError:
        top.problem("uuid", f"{uuid!r} is not a UUID; give 32 hexadecimal digits in five groups")
    memory = top.number("memory_mib", MIN_MEMORY_MIB, MAX_MEMORY_MIB, "a number of MiB", 256)
    machine = MachineConfig(
        memory_mib=memory,
        vcpus=top.number("vcpus", 1, 255, "a number of processors", 1),
        cpu=top.choice("cpu", cpu_model_names(), "host") or "host",
        kernel=top.existing("kernel", "a bzImage or a PVH vmlinux"),
        initrd=top.existing("initrd", "an initramfs", "") or None,
        cmdline=top.text("cmdline", "a string", ""),
        disks=[_disk(table, index) for index, table in enumerate(top.tables("disks"))],
        memory_file=top.file("memory_file", "a file to keep the guest's memory in", "") or None,
    )
    return Description(
        name=name,
        uuid=uuid,
        machine=machine,
        engine=top.choice("engine", engines.ENGINES, ""),
        kvm=_door(top),
        consoles=_consoles(top),
        qmp=top.socket("qmp", ""),
        paused=top.flag("paused"),
        on_poweroff=top.choice("on_poweroff", get_args(OnPoweroff), "exit"),
        on_reboot=top.choice("on_reboot", get_args(OnReboot), "reset"),
        on_crash=top.choice("on_crash", get_args(OnCrash), "exit"),
        pidfile=top.file("pidfile", "a file for the process's number", ""),
        log=top.file("log", "a file for messages", ""),
    )


def _door(top: _Table) -> str:
    what = "direct, or the path of a KVM device"
    name = top.text("kvm", what, "direct", limit=4095)
    if name == "direct":
        return name
    if not name.startswith("/"):
        top.problem("kvm", f"{name!r} is not known; give {what}, such as /dev/kvm")
    elif not os.path.exists(name):
        top.problem("kvm", f"{name}: is not there; give {what}")
    return name


def _disk(table: _Table, index: int) -> Disk:
    disk = Disk(
        path=table.existing("path", "a disk image"),
        read_only=table.flag("read_only"),
        id=table.text("id", "a name for the monitor", f"disk{index}", limit=127),
        serial=table.text("serial", "a serial number", f"kvmish-{index}", MAX_DISK_SERIAL_BYTES),
    )
    table.end()
    return disk


def _consoles(top: _Table) -> tuple[ConsoleSpec, ...]:
    if not top.has("consoles"):
        top.flag("consoles")  # so that it counts as known
        return (ConsoleSpec("serial0", "serial", "pty"),)
    consoles: list[ConsoleSpec] = []
    for table in top.tables("consoles"):
        console = _console(table)
        table.end()
        for other in consoles:
            if console.device == other.device:
                table.problem("device", f"a second {console.device} console; this board has one")
            if console.id == other.id:
                table.problem("id", f"{console.id!r} is taken; give another name")
            if console.backend == other.backend == "stdio":
                table.problem("backend", "standard input is taken; give another backend")
        consoles.append(console)
    return tuple(consoles)


def _console(table: _Table) -> ConsoleSpec:
    device = table.choice("device", ("serial", "virtio"), None)
    backend = table.choice("backend", get_args(Backend), "pty")
    path = ""
    if backend == "unix":
        path = table.socket("path")
    elif backend == "file":
        path = table.file("path", "the file to write to")
    elif table.has("path"):
        table.text("path", "nothing", "")
        table.problem("path", f"a {backend} backend has no path; leave it out")
    return ConsoleSpec(
        id=table.text("id", "a name for the monitor", f"{device}0", limit=127),
        device=device,
        backend=backend,
        path=path,
        log=table.file("log", "a file to add the console's output to", ""),
    )
