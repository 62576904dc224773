"""kvmish exec --door fuse: the file at /dev/kvm of one program."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.devfs.broker import broker

ROOT = Path(__file__).resolve().parents[2]

# The mounts around the chroot are shared, as on most systems: nothing must be seen there. The
# test itself may run in a chroot.
CHROOT = """
import ctypes, fcntl, os, sys
from pathlib import Path
from devfs.place import _keep_to_ourselves, put_in_place

libc, root = ctypes.CDLL(None), sys.argv[1]
NEWNS, BIND, REC, SHARED = 0x20000, 0x1000, 0x4000, 1 << 20
def mount(source, target, kind, flags):
    assert libc.mount(source.encode(), target.encode(), kind.encode(), flags, None) == 0, target
assert libc.unshare(NEWNS) == 0
_keep_to_ourselves()
around = str(Path(root).parent)
mount(around, around, "", BIND | REC)
mount("none", around, "", REC | SHARED)
mount("proc", root + "/proc", "proc", 0)
before = Path("/proc/self/mounts").read_text()
pid = os.fork()
if not pid:
    os.chroot(root)
    os.chdir("/tmp")
    put_in_place(Path("/kvmish"))
    assert os.getcwd() == "/tmp" and sorted(os.listdir("/")) == ["dev", "kvmish", "proc", "tmp"]
    with open("/dev/kvm", "rb+", buffering=0) as kvm:
        assert fcntl.ioctl(kvm, 0xAE00, 0) == 12
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
assert Path("/proc/self/mounts").read_text() == before
"""


def test_inside_a_chroot(may_mount: None, tmp_path: Path) -> None:
    """Its root is no mount point."""
    for name in ("dev", "kvmish", "proc", "tmp"):
        (tmp_path / "root" / name).mkdir(parents=True)
    with broker(tmp_path / "root" / "kvmish"):
        command = [sys.executable, "-c", CHROOT, str(tmp_path / "root")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        assert (done.returncode, done.stderr) == (0, "")
