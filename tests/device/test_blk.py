"""virtio-blk on a real file, driven by a test driver."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvm_core.errors import ConfigError
from tests.device.driver import ALL_FEATURES, Driver
from vmmuser.block.raw import RawImage
from vmmuser.virtio import blk
from vmmuser.virtio.blk import VirtioBlk

SECTORS = 64
HEADER, DATA, STATUS = 0x40000, 0x50000, 0x60000
FEATURES = ALL_FEATURES | blk.F_FLUSH | blk.F_DISCARD | blk.F_WRITE_ZEROES | blk.F_CONFIG_WCE


class Disk:
    """An image in a file, its device, and requests to it."""

    def __init__(self, path: Path, read_only: bool = False, features: int = FEATURES) -> None:
        self.image = RawImage(str(path), read_only)
        self.device = VirtioBlk(self.image, "a-serial")
        self.driver = Driver(self.device, features).start()

    def request(
        self, kind: int, sector: int, out: bytes = b"", size: int = 0, pieces: int = 1
    ) -> tuple[int, bytes]:
        """Make one request; (status, data)."""
        memory, queue = self.driver.memory, self.driver.queues[0]
        memory.write(HEADER, struct.pack("<IIQ", kind, 0, sector))
        memory.write(STATUS, b"\xff")
        buffers = [(HEADER, 16, False)]
        if out:
            memory.write(DATA, out)
            buffers.append((DATA, len(out), False))
        step = size // pieces
        buffers += [(DATA + i * step, step, True) for i in range(pieces) if step]
        buffers.append((STATUS, 1, True))
        head = queue.add(buffers)
        self.driver.notify()
        assert queue.completions() == [(head, size + 1)]
        return memory.read(STATUS, 1)[0], memory.read(DATA, size)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "disk.img"
    file.write_bytes(b"".join(bytes([i]) * 512 for i in range(SECTORS)))
    return file


@pytest.fixture
def disk(path: Path) -> Disk:
    return Disk(path)


def test_config_space(disk: Disk) -> None:
    def read(at: int, size: int) -> int:
        return disk.driver.transport.read(0, 0x100 + at, size)

    assert read(0, 8) == SECTORS
    assert read(12, 4) == 126
    assert read(20, 4) == 512
    assert read(34, 2) == 1
    assert read(36, 4) > 0
    assert read(60, 8) == 0  # behind the end


def test_read(disk: Disk) -> None:
    assert disk.request(blk.T_IN, 3, size=1024, pieces=4) == (0, b"\3" * 512 + b"\4" * 512)


def test_write_and_flush(disk: Disk, path: Path) -> None:
    assert disk.request(blk.T_OUT, 5, out=b"w" * 1024)[0] == 0
    assert disk.request(blk.T_FLUSH, 0)[0] == 0
    assert path.read_bytes()[5 * 512 : 7 * 512] == b"w" * 1024


def test_header_and_data_in_one_buffer(disk: Disk, path: Path) -> None:
    """Any layout is allowed with VERSION_1 (2.6.4.3)."""
    memory, queue = disk.driver.memory, disk.driver.queues[0]
    memory.write(HEADER, struct.pack("<IIQ", blk.T_OUT, 0, 1) + b"q" * 512)
    queue.add([(HEADER, 10, False), (HEADER + 10, 518, False), (STATUS, 1, True)])
    disk.driver.notify()
    assert memory.read(STATUS, 1) == b"\0"
    assert path.read_bytes()[512:1024] == b"q" * 512


def test_status_in_the_data_buffer(disk: Disk) -> None:
    memory, queue = disk.driver.memory, disk.driver.queues[0]
    memory.write(HEADER, struct.pack("<IIQ", blk.T_IN, 0, 9))
    memory.write(DATA, b"\xff" * 513)
    queue.add([(HEADER, 16, False), (DATA, 513, True)])
    disk.driver.notify()
    assert memory.read(DATA, 513) == b"\x09" * 512 + b"\0"


@pytest.mark.parametrize(
    ("kind", "sector", "size"),
    [(blk.T_IN, SECTORS, 512), (blk.T_IN, SECTORS - 1, 1024), (blk.T_IN, 1 << 62, 512)],
)
def test_reads_beyond_the_end_fail(disk: Disk, kind: int, sector: int, size: int) -> None:
    assert disk.request(kind, sector, size=size)[0] == blk.S_IOERR


@pytest.mark.parametrize("sector", [SECTORS, (1 << 64) - 1])
def test_writes_beyond_the_end_fail(disk: Disk, path: Path, sector: int) -> None:
    assert disk.request(blk.T_OUT, sector, out=b"x" * 512)[0] == blk.S_IOERR
    assert path.stat().st_size == SECTORS * 512


def test_broken_sector_size_fails(disk: Disk) -> None:
    assert disk.request(blk.T_OUT, 0, out=b"x" * 100)[0] == blk.S_IOERR


def test_unknown_request(disk: Disk) -> None:
    assert disk.request(77, 0)[0] == blk.S_UNSUPP


def test_serial_number(disk: Disk) -> None:
    status, data = disk.request(blk.T_GET_ID, 0, size=20)
    assert (status, data.rstrip(b"\0")) == (0, b"a-serial")


def test_discard_punches_a_hole(path: Path) -> None:
    path.write_bytes(b"z" * (1 << 20))
    before = path.stat().st_blocks
    disk = Disk(path)
    status, _ = disk.request(blk.T_DISCARD, 0, out=struct.pack("<QII", 0, 1024, 0))
    assert status == 0
    os.sync()
    assert path.stat().st_blocks < before
    assert path.stat().st_size == 1 << 20


@pytest.mark.parametrize("flags", [0, 1])
def test_write_zeroes(disk: Disk, path: Path, flags: int) -> None:
    out = struct.pack("<QII", 2, 3, flags)
    assert disk.request(blk.T_WRITE_ZEROES, 0, out=out)[0] == 0
    content = path.read_bytes()
    assert content[1024:2560] == bytes(1536)
    assert content[2560] == 5


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (struct.pack("<QII", SECTORS - 1, 2, 0), blk.S_IOERR),
        (struct.pack("<QII", 0, 0xFFFFFFFF, 0), blk.S_IOERR),
        (struct.pack("<QII", 0, 1, 1), blk.S_UNSUPP),
        (b"short", blk.S_IOERR),
        (struct.pack("<QII", 0, 1, 0) * 2, blk.S_IOERR),
    ],
)
def test_bad_discards(disk: Disk, raw: bytes, status: int) -> None:
    assert disk.request(blk.T_DISCARD, 0, out=raw)[0] == status


def test_discard_without_the_feature(path: Path) -> None:
    disk = Disk(path, features=ALL_FEATURES)
    out = struct.pack("<QII", 0, 1, 0)
    assert disk.request(blk.T_DISCARD, 0, out=out)[0] == blk.S_UNSUPP


def test_read_only(path: Path) -> None:
    disk = Disk(path, read_only=True, features=ALL_FEATURES | blk.F_RO)
    assert disk.request(blk.T_OUT, 0, out=b"x" * 512)[0] == blk.S_IOERR
    assert disk.request(blk.T_IN, 1, size=512) == (0, b"\1" * 512)
    assert path.read_bytes()[0] == 0


def test_image_that_shrank_is_an_io_error(disk: Disk, path: Path) -> None:
    os.truncate(path, 512)
    assert disk.request(blk.T_IN, 10, size=512)[0] == blk.S_IOERR


def test_write_back_can_be_switched_off(disk: Disk) -> None:
    transport = disk.driver.transport
    assert transport.read(0, 0x120, 1) == 1
    transport.write(0, 0x120, 1, 0)
    assert transport.read(0, 0x120, 1) == 0
    assert disk.request(blk.T_OUT, 0, out=b"x" * 512)[0] == 0


def test_request_without_status_breaks_the_queue(disk: Disk) -> None:
    disk.driver.memory.write(HEADER, struct.pack("<IIQ", blk.T_FLUSH, 0, 0))
    disk.driver.queues[0].add([(HEADER, 16, False)])
    disk.driver.notify()
    assert disk.driver.needs_reset


def test_request_without_a_header_breaks_the_queue(disk: Disk) -> None:
    disk.driver.queues[0].add([(HEADER, 8, False), (STATUS, 1, True)])
    disk.driver.notify()
    assert disk.driver.needs_reset


class TestImage:
    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="No such file"):
            RawImage(str(tmp_path / "nothing"))

    def test_directory(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"[Ii]s a directory"):
            RawImage(str(tmp_path))
        with pytest.raises(ConfigError, match=r"[Ii]s a directory"):
            RawImage(str(tmp_path), read_only=True)

    def test_empty(self, tmp_path: Path) -> None:
        file = tmp_path / "empty"
        file.touch()
        with pytest.raises(ConfigError, match="less than a sector"):
            RawImage(str(file))

    def test_not_a_disk(self) -> None:
        with pytest.raises(ConfigError, match="not a file"):
            RawImage("/dev/null")

    def test_other_format(self, path: Path, caplog: pytest.LogCaptureFixture) -> None:
        path.write_bytes(b"QFI\xfb".ljust(1024, b"\0"))
        RawImage(str(path)).close()
        assert f"{path}: is a qcow2 image" in caplog.text

    def test_in_use(self, path: Path) -> None:
        first = RawImage(str(path))
        with pytest.raises(ConfigError, match="another program"):
            RawImage(str(path))
        first.close()
        RawImage(str(path)).close()

    def test_two_readers(self, path: Path) -> None:
        RawImage(str(path), read_only=True)
        RawImage(str(path), read_only=True)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 1, 4, 8, 11, 13, 99]),
            st.integers(0, SECTORS + 2) | st.integers(0, (1 << 64) - 1),
            st.lists(st.tuples(st.integers(1, 2000), st.booleans()), min_size=1, max_size=6),
            st.booleans(),
        ),
        max_size=6,
    )
)
def test_any_requests_are_survived(
    tmp_path_factory: pytest.TempPathFactory,
    requests: list[tuple[int, int, list[tuple[int, bool]], bool]],
) -> None:
    file = tmp_path_factory.mktemp("fuzz") / "disk.img"
    file.write_bytes(bytes(SECTORS * 512))
    disk = Disk(file)
    memory, queue = disk.driver.memory, disk.driver.queues[0]
    for kind, sector, buffers, with_header in requests:
        memory.write(HEADER, struct.pack("<IIQ", kind, 0, sector))
        chain = [(HEADER, 16, False)] if with_header else []
        chain += [(DATA + 4096 * i, size, out) for i, (size, out) in enumerate(buffers)]
        queue.add(chain)
        disk.driver.notify()
    disk.image.close()
    assert file.stat().st_size == SECTORS * 512
