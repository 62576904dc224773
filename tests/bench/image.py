"""What the benchmarks' guests are made of: programs, initramfs, root file system, tiny kernel."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

from tests.boot import tiny as tiny_guest
from tools.cpio import Archive
from vmmuser.assets import ASSETS, CLOUD, ROOT

SCRIPT = Path(ROOT, "tests", "bench", "guest", "bench-rows")
BUILD = Path(ROOT, "build", "bench")
PROGRAMS = BUILD / "guest"
NAMES = ("bench", "bench32", "bench-cold")

PACKAGES = "gcc,libc6-dev,python3,luajit"
SUITE = "bookworm"
SIZE_MIB = 800
FIRST_MARK = "bench first"


class ImageError(Exception):
    """Something that a guest needs cannot be had; the message says what to do."""


@cache
def programs() -> Path:
    """Build the programs if they are not up to date; return their directory."""
    # MAKEFLAGS of an outer make would name a job server that is not ours
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    done = subprocess.run(
        ["make", "-s", "bench-guest"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise ImageError(f"make bench-guest: {done.stdout}{done.stderr}")
    return PROGRAMS


@cache
def initrd() -> Path:
    """The usual initramfs and the programs behind it: the kernel unpacks archives in a row."""
    archive = Archive()
    directory = programs()
    for name in NAMES:
        archive.file(f"bin/{name}", (directory / name).read_bytes(), 0o755)
    archive.file("bin/bench-rows", SCRIPT.read_bytes(), 0o755)
    path = BUILD / "initrd.img"
    path.write_bytes(Path(CLOUD.initrd).read_bytes() + archive.finish())
    return path


@cache
def tiny() -> Path:
    """A kernel whose first instructions say that they ran, and power off."""
    path = BUILD / "tiny.bzimage"
    path.write_bytes(tiny_guest.kernel(f'say "{FIRST_MARK}\\n"\njmp off\n'))
    return path


@cache
def root_directory() -> Path:
    """Debian with gcc, python3 and luajit; made once, as root (debootstrap makes device nodes)."""
    root = Path(ASSETS, "bench-root")
    if os.geteuid() or not shutil.which("debootstrap"):
        raise ImageError("the root file system needs debootstrap, and root")
    if not (root / "usr" / "bin" / "luajit").exists():
        command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(root)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ImageError(f"debootstrap: {done.stdout[-1000:]}{done.stderr[-1000:]}")
        if (root / "proc").is_mount():  # in some containers debootstrap leaves it
            subprocess.run(["umount", str(root / "proc")], check=True)
        for part in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale"):
            shutil.rmtree(root / part, ignore_errors=True)
    (root / "bench").mkdir(exist_ok=True)
    for name, text in WORKLOADS.items():
        path = root / "bench" / name
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)
        path.chmod(0o755)
    return root


@cache
def root_image() -> Path:
    """The same as an ext4 image."""
    image, root = Path(ASSETS, "bench-root.img"), root_directory()
    newest = max(path.stat().st_mtime for path in (root / "bench").iterdir())
    if not image.is_file() or image.stat().st_mtime < newest:
        new = image.with_suffix(f".{os.getpid()}")
        with new.open("wb") as file:
            file.truncate(SIZE_MIB << 20)
        make = ["mke2fs", "-q", "-t", "ext4", "-L", "bench", "-d", str(root), str(new)]
        subprocess.run(make, check=True)
        new.rename(image)
    return image


WARM = """#!/bin/sh
# Reads what the programs will read, so that the disk is not what is measured.
cd /usr/lib
cat gcc/x86_64-linux-gnu/*/cc1 ../bin/python3.* ../bin/luajit* >/dev/null
cat x86_64-linux-gnu/lib*.so* python3.*/*.py python3.*/*/*.py >/dev/null
true
"""

GCC = """#!/bin/sh
# Compiles the same file COUNT times; the assembly goes to standard output.
i=0
while [ $i -lt "$1" ]; do
    gcc -O2 -pipe -S -o - /bench/program.c
    i=$((i + 1))
done
"""

PYTHON = '''"""Starts, then writes and reads a document COUNT times."""
import json
import sys

document = {
    "machines": [
        {"name": f"vm{i}", "cpus": i % 4 + 1, "memory": i * 512, "load": i / 7, "on": i % 3 == 0,
         "disks": [{"file": f"/images/{i}-{j}.qcow2", "sectors": i * j} for j in range(4)]}
        for i in range(40)
    ]
}
total = 0
for i in range(int(sys.argv[1])):
    document["round"] = i
    text = json.dumps(document, sort_keys=True, indent=1)
    again = json.loads(text)
    total += len(text) + sum(d["sectors"] for m in again["machines"] for d in m["disks"])
print(total)
'''

LUA = """-- Numbers, tables and strings, COUNT times over: LuaJIT compiles what is hot.
local count, total = tonumber(arg[1]), 0
for round = 1, count do
    local list = {}
    for i = 1, 2000 do list[i] = (i * 7919 + round) % 10007 end
    for i = 2, #list do total = (total + list[i] * list[i - 1]) % 1000000007 end
    local x = 1.0
    for i = 1, 20000 do x = x * 0.999 + i % 3 end
    total = total + math.floor(x)
    local words = {}
    for i = 1, 200 do words[i] = string.format("%d:%s", list[i], ("x"):rep(i % 5)) end
    total = total + #table.concat(words, ",")
end
print(total)
"""


def c_program(lines: int = 2000) -> str:
    """Return a C file of so many lines, the same each time: functions that gcc has to think on."""
    text = ["/* Made by tests/bench/image.py for gcc to compile. */", "struct s { int a, b; };"]
    number = 0
    while len(text) <= lines - 20:
        n = number
        text += [
            f"int f{n}(struct s *v, int n, unsigned *out) {{",
            "    unsigned sum = 0;",
            f"    for (int i = 0; i < n; i += {n % 3 + 1}) {{",
            f"        if ((v[i].a ^ {n * 37}) % {n % 11 + 3} == 0)",
            f"            sum += v[i].b * {n + 5}u;",
            f"        else if (v[i].a > v[i].b + {n % 17})",
            f"            sum ^= out[i % {n % 7 + 2}] << {n % 13};",
            "        switch (v[i].b & 3) {",
            f"        case 0: v[i].a += (int)(sum >> {n % 9}); break;",
            f"        case 1: v[i].b -= {n % 23}; break;",
            f"        case 2: out[i & 7] = sum * {2 * n + 1}u; break;",
            "        }",
            "    }",
            "    return (int)sum;",
            "}",
            "",
        ]
        number += 1
    return "\n".join(text[: lines - 1] + ["/* end */"] * (lines - len(text))) + "\n"


WORKLOADS = {
    "warm": WARM,
    "gcc": GCC,
    "loop.py": PYTHON,
    "loop.lua": LUA,
    "program.c": c_program(),
}
