"""The yardstick of devfs: a fusepy mount whose ioctl slot is a C function that does nothing.

`empty_fuse.py DIRECTORY` serves DIRECTORY/kvm, says "ready", and goes on until it is unmounted.
"""

from __future__ import annotations

import ctypes
import stat
import subprocess
import sys
import tempfile
from typing import Any

import fuse

SOURCE = "int empty(const char *p, int c, void *a, void *f, unsigned l, void *d) { return 0; }"


class Directory(fuse.Operations):  # type: ignore[misc]
    use_ns = True

    def init(self, path: str) -> None:
        print("ready", flush=True)

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
        return {"st_mode": stat.S_IFREG | 0o666, "st_nlink": 1}


def main(directory: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        library = f"{name}/empty.so"
        command = ["gcc", "-O2", "-shared", "-fPIC", "-x", "c", "-o", library, "-"]
        subprocess.run(command, input=SOURCE, text=True, check=True)
        empty = ctypes.CDLL(library).empty
    real = fuse._libfuse.fuse_main_real

    def with_slot(argc: int, argv: Any, operations: Any, size: int, data: Any) -> Any:
        table = operations.contents
        table.ioctl = ctypes.cast(empty, type(table.ioctl))
        return real(argc, argv, operations, size, data)

    fuse._libfuse.fuse_main_real = with_slot
    fuse.FUSE(Directory(), directory, foreground=True, nothreads=False)


if __name__ == "__main__":
    main(sys.argv[1])
