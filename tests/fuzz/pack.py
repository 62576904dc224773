"""Makes tests/fuzz/ioctls.xz of a directory of libFuzzer's inputs: python -m tests.fuzz.pack DIR.

Merge them before, so that each adds something: build/fuzz/ioctls -set_cover_merge=1 DIR CORPUS...
"""

from __future__ import annotations

import lzma
import struct
import sys
from pathlib import Path

PACKED = Path(__file__).with_name("ioctls.xz")


def pack(directory: Path) -> bytes:
    """Every input behind its length, in the order of their names."""
    inputs = [path.read_bytes() for path in sorted(directory.iterdir())]
    return b"".join(struct.pack("<I", len(one)) + one for one in inputs)


if __name__ == "__main__":
    PACKED.write_bytes(lzma.compress(pack(Path(sys.argv[1])), preset=9 | lzma.PRESET_EXTREME))
