"""cffi build of kvm_core._kvm, API mode: the core's door and its CPU models, from its archive.

The Makefile compiles the core, once; this file compiles only the wrapper. Alone (`pip install .`),
it asks make for the archive first.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from cffi import FFI

ROOT = Path(__file__).resolve().parent.parent
ARCHIVE = Path(os.environ.get("KVMISH_BUILD", "build")) / "libkvmcore.a"

if not os.environ.get("KVMISH_BUILD"):
    subprocess.run(["make", "-s", "-C", str(ROOT), str(ARCHIVE)], check=True)

ffi = FFI()
ffi.cdef((ROOT / "kvm_core" / "_cdef.h").read_text(encoding="ascii"))
ffi.set_source(
    "kvm_core._kvm",
    "#include <stdint.h>\n"
    '#include "cpu/cpuid_models.h"\n'
    '#include "kvm/door.h"\n'
    '#include "kvm/engines.h"\n'
    '#include "runner.h"\n',
    include_dirs=["kvm_core"],
    extra_objects=[str(ARCHIVE)],
    libraries=["Zydis", "pthread", "dl", "m"],
    depends=[
        str(ARCHIVE),
        "kvm_core/_cdef.h",
        "kvm_core/cpu/cpuid_models.h",
        "kvm_core/kvm/door.h",
        "kvm_core/kvm/engines.h",
        "kvm_core/runner.h",
    ],
    extra_compile_args=["-O2", "-std=gnu11"],
)
