"""The JSON description of a machine: what is taken, and how what is wrong is told."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvm_core.errors import ConfigError
from vmmuser import description


def _problems(value: object, base: Path) -> list[str]:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    with pytest.raises(ConfigError) as caught:
        description.parse(data, base)
    return str(caught.value).splitlines()


@pytest.fixture
def good(tmp_path: Path) -> dict[str, object]:
    (tmp_path / "kernel").write_bytes(b"k")
    (tmp_path / "disk.img").write_bytes(bytes(4096))
    return {"name": "demo", "kernel": "kernel"}


def test_the_least(good: dict[str, object], tmp_path: Path) -> None:
    got = description.parse(json.dumps(good).encode(), tmp_path)
    assert got.machine.kernel == str(tmp_path / "kernel")
    assert (got.machine.memory_mib, got.machine.vcpus, got.machine.cpu) == (256, 1, "host")
    assert [(c.id, c.device, c.backend) for c in got.consoles] == [("serial0", "serial", "pty")]
    assert (got.on_poweroff, got.on_reboot, got.on_crash) == ("exit", "reset", "exit")
    assert len(got.uuid) == 36


def test_everything(good: dict[str, object], tmp_path: Path) -> None:
    good |= {
        "uuid": "6FD4B3D0-4C5B-4C57-A6F3-7A9A0B8E2F10",
        "memory_mib": 512,
        "vcpus": 2,
        "disks": [{"path": "disk.img", "read_only": True}, {"path": "disk.img", "id": "data"}],
        "consoles": [
            {"device": "serial", "backend": "unix", "path": "s.sock", "log": "s.log"},
            {"device": "virtio", "backend": "file", "path": "/tmp/out", "id": "hvc"},  # noqa: S108
        ],
        "qmp": "qmp.sock",
        "paused": True,
        "on_crash": "pause",
    }
    got = description.parse(json.dumps(good).encode(), tmp_path)
    assert got.uuid == "6fd4b3d0-4c5b-4c57-a6f3-7a9a0b8e2f10"
    assert [disk.id for disk in got.machine.disks] == ["disk0", "data"]
    assert [disk.serial for disk in got.machine.disks] == ["kvmish-0", "kvmish-1"]
    assert got.consoles[0].path == str(tmp_path / "s.sock")
    assert got.consoles[1].path == "/tmp/out"  # noqa: S108
    assert (got.qmp, got.paused, got.on_crash) == (str(tmp_path / "qmp.sock"), True, "pause")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"name": None}, "name: is missing; give the machine's name"),
        ({"name": "a/b"}, "name: 'a/b' cannot be a machine's name; leave out slashes"),
        ({"name": ""}, "name: is empty; give the machine's name"),
        ({"name": "a\nb"}, "name: has a control character; leave it out"),
        ({"name": "\ud800"}, "name: has half a surrogate pair; leave it out"),
        ({"kernel": "."}, "kernel: {base}: is a directory; name a bzImage or a PVH vmlinux"),
        ({"memory_mib": "3"}, "memory_mib: is a string; give a number of MiB"),
        ({"memory_mib": True}, "memory_mib: is a truth value; give a number of MiB"),
        ({"vcpus": 0}, "vcpus: is 0; give 1 to 255"),
        ({"vcpu": 1}, "vcpu: there is no such field; did you mean vcpus?"),
        ({"disks": [3]}, "disks[0]: is a number; give an object"),
        ({"disks": [{"path": "disk.img", "ro": 1}]}, "disks[0].ro: there is no such field; "),
        ({"consoles": [{"device": "tty"}]}, "consoles[0].device: 'tty' is not known; give one of "),
        ({"consoles": [{"device": "serial", "backend": "unix"}]}, "consoles[0].path: is missing; "),
        ({"qmp": "s" * 200}, "qmp: {base}/ss"),
        ({"kvm": "/nowhere/kvm"}, "kvm: /nowhere/kvm: is not there; give direct, or the path of"),
        ({"uuid": "x"}, "uuid: 'x' is not a UUID; "),
    ],
)
def test_one_thing_wrong(
    good: dict[str, object], tmp_path: Path, change: dict[str, object], problem: str
) -> None:
    (told,) = _problems(good | change, tmp_path)
    assert told.startswith(problem.format(base=tmp_path))


def test_all_that_is_wrong_is_told(good: dict[str, object], tmp_path: Path) -> None:
    told = _problems({"name": "x", "vcpus": 0, "memory_mib": 1, "kernel": "nowhere"}, tmp_path)
    assert [line.split(":")[0] for line in told] == ["memory_mib", "vcpus", "kernel"]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"[]", "is a list; give an object"),
        (b'{"name": "a",}', "line 1, column 14: is not JSON"),
        (b'{"name": "\xff"}', "byte 10: is not UTF-8"),
        (b"[" * 100000, "is nested too deeply"),
        (b'{"vcpus": ' + b"9" * 10000 + b"}", "is not usable JSON"),
        (b"", "line 1, column 1: is not JSON"),
    ],
)
def test_not_a_description(tmp_path: Path, data: bytes, problem: str) -> None:
    assert _problems(data, tmp_path)[0].startswith(problem)


FIELDS = [
    "name", "uuid", "memory_mib", "memory_file", "vcpus", "cpu", "engine", "kvm", "kernel",
    "initrd", "cmdline", "disks", "consoles", "qmp", "paused", "on_poweroff", "on_reboot",
    "on_crash", "pidfile", "log",
]  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
INNER = st.dictionaries(
    st.sampled_from(["path", "read_only", "id", "serial", "device", "backend", "log"]),
    SCALARS | st.sampled_from(["serial", "virtio", "unix", "pty"]),
)
VALUES = SCALARS | st.lists(INNER | SCALARS, max_size=3) | INNER


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS) | st.text(), VALUES, max_size=8))
def test_whatever_comes_is_taken_or_refused(value: dict[str, object]) -> None:
    with contextlib.suppress(ConfigError):
        got = description.parse(json.dumps(value).encode(), Path("/nowhere"))
        assert got.machine.memory_mib >= 4


def test_every_field_is_known_and_documented() -> None:
    manual = (Path(__file__).parents[2] / "docs" / "howto" / "vm.md").read_text()
    with pytest.raises(ConfigError) as caught:
        description.parse(json.dumps({field: {} for field in FIELDS}).encode(), Path("/"))
    assert "there is no such field" not in str(caught.value)
    for field in FIELDS:
        assert f"| `{field}" in manual
    (listed,) = _problems({"name": "x", "kernel": "/proc/self/exe", "zzzzzz": 1}, Path("/"))
    assert listed.partition("known are ")[2].split(", ") == sorted(FIELDS, key=listed.index)


def test_a_field_twice(good: dict[str, object], tmp_path: Path) -> None:
    data = json.dumps(good).encode()[:-1] + b', "name": "other"}'
    assert _problems(data, tmp_path) == ["name: stands there twice; keep one"]


def test_the_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text('{"name": "x", "kernel": ""}')
    with pytest.raises(ConfigError, match=rf"^{path}: kernel: is empty; give a bzImage"):
        description.read(str(path))
    with pytest.raises(ConfigError, match=r"No such file or directory; name a JSON description"):
        description.read(str(tmp_path / "nothing"))
