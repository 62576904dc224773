"""The table of benchmarks: what is run, how much of it, and what it must reach.

Runner, JSON and docs/performance.md come from this one table. A row's count is chosen so that the
host needs some 100 ms for it; an engine with a smaller scale does that part of it, and times are
compared per unit of work.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

# Parts of a row's count that an engine does.
SCALES = {"translate": 1.0, "emulate": 0.1}


@dataclass(frozen=True)
class Session:
    """One boot that runs rows one after the other."""

    smp: int = 1
    memory_mb: int = 256
    machine: str = "pc"
    disk: bool = False  # the root file system with gcc, python3 and luajit
    native: bool = True  # also run on the host itself
    qemu: bool = True  # also under QEMU on our KVM
    tcg: bool = True  # also under QEMU TCG
    file: bool = False  # also under QEMU on the device file
    plain: bool = False  # the usual initramfs and console messages; no programs
    own: bool = True  # also by kvmish boot
    turns: int = 1  # a round's, of the judged sides: what is short is measured more often
    tcg_turns: int = 1  # TCG's, where it is short under TCG, too


SESSIONS = {
    "integer": Session(file=True, turns=3),
    "integer 32": Session(),
    "vector": Session(turns=5),
    "kernel": Session(turns=3, tcg_turns=3),
    "two": Session(smp=2, turns=3),
    "four": Session(smp=4, turns=3, tcg_turns=3),
    "idle": Session(native=False),
    "compiler": Session(memory_mb=512, disk=True),
    "scripts": Session(memory_mb=512, disk=True, turns=3),
    "boot pc": Session(native=False, plain=True, file=True, turns=3, tcg_turns=3),
    "boot pc 2": Session(native=False, plain=True, smp=2, own=False),
    "boot q35": Session(native=False, plain=True, machine="q35", own=False),
    "exits": Session(native=False, plain=True, own=False, tcg=False, file=True),
    "tiny": Session(native=False, qemu=False, tcg=False),
}


@dataclass(frozen=True)
class Row:
    """One benchmark."""

    name: str
    session: str
    count: int
    what: str
    measure: str = "time"  # time, userland, first, exits, idle, memory
    scaled: bool = True  # a smaller scale of an engine applies

    @property
    def unit(self) -> str:
        """The unit of a sample."""
        return {"idle": "% of a core", "memory": "MiB", "exits": ""}.get(self.measure, "s")

    def count_for(self, scale: float) -> int:
        """Return how many units to do at an engine's scale."""
        return max(1, round(self.count * scale)) if self.scaled else self.count


ROWS = (
    Row("hash", "integer", 1000, "open-addressing hash table"),
    Row("quicksort", "integer", 700, "quicksort of random integers"),
    Row("sha256", "integer", 600, "SHA-256"),
    Row("gzip", "integer", 800, "LZ77 and Huffman codes"),
    Row("interpreter", "integer", 800, "bytecode interpreter"),
    Row("tree", "integer", 1500, "binary search tree"),
    Row("strings", "integer", 3000, "split, compare, find, print"),
    Row("sieve", "integer", 1800, "sieve of Eratosthenes"),
    Row("dot", "vector", 12000, "dot product, floats"),
    Row("saxpy", "vector", 4000, "a * x + y, floats"),
    Row("matrix", "vector", 500, "matrix product, floats"),
    Row("ode", "vector", 2000, "Lorenz's equation by Runge and Kutta, doubles"),
    Row("simd", "vector", 2500, "blend and limit 16-bit integers"),
    Row("memcpy", "vector", 20, "copies of 16 MiB"),
    Row("getppid", "kernel", 300, "1,000 system calls a unit"),
    Row("fault", "kernel", 100, "256 new pages a unit"),
    Row("forkexec", "kernel", 150, "fork and exec of a small process"),
    Row("cold", "kernel", 200, "200 short processes, each with code that is new"),
    Row("pipe", "kernel", 500, "ten round trips between two processes a unit"),
    Row("one", "two", 1000, "one program on a machine of two processors"),
    Row("two", "two", 1000, "two programs at once"),
    Row("futex", "two", 300, "ten round trips between two threads a unit"),
    Row("shootdown", "two", 1000, "munmap while the other processor runs"),
    Row("four", "four", 500, "four programs on four processors of the guest"),
    *(
        Row(f"{name}32", "integer 32", count, f"{name} in 32-bit code")
        for name, count in (
            ("hash", 1000), ("quicksort", 700), ("sha256", 600), ("gzip", 800),
            ("interpreter", 800), ("tree", 1500), ("strings", 3000), ("sieve", 1800),
        )
    ),
    Row("gcc", "compiler", 1, "gcc -O2 of 2,000 lines", scaled=False),
    Row("python", "scripts", 60, "python3's start and a loop over json"),
    Row("luajit", "scripts", 300, "LuaJIT: numbers, tables, strings"),
    Row("boot pc", "boot pc", 1, "start to userland, pc", "userland", scaled=False),
    Row("boot pc 2", "boot pc 2", 1, "start to userland, pc, 2 processors", "userland", False),
    Row("boot q35", "boot q35", 1, "start to userland, q35", "userland", False),
    Row("exits", "exits", 1, "exits to QEMU in such a boot, pc", "exits", scaled=False),
    Row("first", "tiny", 1, "start to the first guest instruction", "first", scaled=False),
    Row("idle", "idle", 5, "processor time of an idle guest", "idle", scaled=False),
    Row("memory", "idle", 5, "the process's memory beyond guest RAM", "memory", scaled=False),
)  # fmt: skip

INTEGER = tuple(row.name for row in ROWS if row.session == "integer")
INTEGER_32 = tuple(row.name for row in ROWS if row.session == "integer 32")


@dataclass(frozen=True)
class Target:
    """A line of the table of targets: the geometric mean over its rows against something.

    against: "native" and "limit": a multiple of native time, or a value, at most; "tcg": how many
    times faster than the better QEMU TCG, at least; "throughput": of two programs, in those of one.
    limit None: reported. column: "kvm" (QEMU on our KVM), "file" (QEMU on the device file), "boot"
    (kvmish boot) or "native".
    """

    what: str
    rows: tuple[str, ...]
    against: str
    limit: float | None
    column: str = "kvm"


TARGETS = (
    Target("integer, geometric mean", INTEGER, "native", 2.2),
    Target("integer, geometric mean", INTEGER, "tcg", None),
    Target("float and vector", ("dot", "saxpy", "matrix", "ode", "simd"), "native", 1.2),
    Target("float and vector", ("dot", "saxpy", "matrix", "ode", "simd"), "tcg", 12),
    Target("memcpy 16 MiB", ("memcpy",), "native", 1.5),
    Target("memcpy 16 MiB", ("memcpy",), "tcg", 8),
    Target("gcc -O2 of a 2,000-line file", ("gcc",), "native", None),
    Target("gcc -O2 of a 2,000-line file", ("gcc",), "tcg", 1.8),
    Target("python3 start + json loop", ("python",), "native", None),
    Target("python3 start + json loop", ("python",), "tcg", 1.8),
    Target("a JIT guest (LuaJIT)", ("luajit",), "native", None),
    Target("a JIT guest (LuaJIT)", ("luajit",), "tcg", 1.8),
    Target("getppid", ("getppid",), "native", None),
    Target("getppid", ("getppid",), "tcg", 1.5),
    Target("new-page fault", ("fault",), "native", None),
    Target("new-page fault", ("fault",), "tcg", 2),
    Target("fork + exec", ("forkexec",), "native", None),
    Target("fork + exec", ("forkexec",), "tcg", 2),
    Target("200 short cold processes", ("cold",), "native", None),
    Target("200 short cold processes", ("cold",), "tcg", 2),
    Target("pipe ping-pong", ("pipe",), "native", None),
    Target("pipe ping-pong", ("pipe",), "tcg", 5),
    Target("QEMU row: start to userland, pc", ("boot pc",), "tcg", 2),
    Target("kvmish boot: first guest instruction (s)", ("first",), "limit", 0.080, "boot"),
    Target("kvmish boot: userland, against QEMU TCG's pc", ("boot pc",), "tcg", 2.5, "boot"),
    Target("QEMU on the device file: integer, geometric mean", INTEGER, "tcg", 1.5, "file"),
    Target("QEMU on the device file: start to userland, pc", ("boot pc",), "tcg", 1, "file"),
    Target("exits to QEMU in such a boot", ("exits",), "limit", None),
    Target("exits to QEMU in such a boot, device file", ("exits",), "limit", None, "file"),
    Target("two programs at once: throughput of one", ("two", "one"), "throughput", 1.8),
    Target("the same on the host itself", ("two", "one"), "throughput", None, "native"),
    Target("two programs at once", ("two",), "tcg", 1),
    Target("futex ping-pong", ("futex",), "tcg", 1),
    Target("munmap shootdown", ("shootdown",), "tcg", 1),
    Target("4 vCPUs on 2 cores", ("four",), "tcg", 1),
    Target("32-bit userland, geometric mean", INTEGER_32, "native", 2.5),
    Target("32-bit userland, geometric mean", INTEGER_32, "tcg", None),
    Target("idle guest in QEMU (% of a core)", ("idle",), "limit", 1),
    Target("idle guest, kvmish boot (% of a core)", ("idle",), "limit", 1, "boot"),
    Target("memory beyond guest RAM, QEMU (MiB)", ("memory",), "limit", 64),
    Target("memory beyond guest RAM, kvmish boot (MiB)", ("memory",), "limit", 64, "boot"),
)


def selected(pattern: str) -> list[Row]:
    """Return the rows whose name or session matches a shell pattern, or one of several: a,b."""
    wanted = [word for word in pattern.split(",") if word]
    return [
        row
        for row in ROWS
        if any(fnmatchcase(row.name, w) or fnmatchcase(row.session, w) for w in wanted)
    ]
