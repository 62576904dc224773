"""The cpio writer and the initramfs, read back by busybox's own cpio."""

from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from tools import initramfs
from tools.cpio import Archive
from vmmuser.assets import ASSETS, CLOUD


def _listing(image: bytes) -> list[str]:
    busybox = shutil.which("busybox") or f"{ASSETS}/busybox"
    done = subprocess.run(
        [busybox, "cpio", "-t", "-v"], input=image, capture_output=True, check=True, timeout=60
    )
    return done.stdout.decode().splitlines()


def test_every_kind_of_entry_reads_back() -> None:
    archive = Archive()
    archive.directory("dev")
    archive.char_device("dev/console", 5, 1)
    archive.file("hello", b"hello\n", 0o755)
    archive.symlink("link", "hello")
    image = archive.finish()
    lines = _listing(image)
    assert [line.split()[0] for line in lines] == [
        stat.filemode(stat.S_IFDIR | 0o755),
        stat.filemode(stat.S_IFCHR | 0o600),
        stat.filemode(stat.S_IFREG | 0o755),
        stat.filemode(stat.S_IFLNK | 0o777),
    ]
    assert b"0000000500000001" in image  # the node's major and minor number
    assert lines[3].endswith("link -> hello")


def test_same_input_same_bytes() -> None:
    one = initramfs.build(b"busybox", ["sh", "mount"], None)
    assert one == initramfs.build(b"busybox", ["sh", "mount"], None)
    assert len(one) % 4 == 0


def test_modules_come_after_what_they_need(tmp_path: Path) -> None:
    images = {
        "virtio_blk": b"\0depends=virtio_ring,virtio\0",
        "virtio_ring": b"\0depends=virtio\0",
        "virtio": b"\0depends=\0",
    }
    for name, image in images.items():
        (tmp_path / f"{name}.ko").write_bytes(image)
    image = initramfs.build(b"", [], tmp_path)
    assert b"virtio_blk virtio.ko virtio_ring.ko virtio_blk.ko\n" in image


def test_the_built_one_has_init_and_modules() -> None:
    if not CLOUD.ready():
        pytest.skip("no assets: make assets")
    listing = "\n".join(_listing(Path(CLOUD.initrd).read_bytes()))
    for name in ("init", "bin/sh", "dev/console", "lib/modules/virtio_mmio.ko", "etc/acpi/PWRF"):
        assert f" {name}" in listing
