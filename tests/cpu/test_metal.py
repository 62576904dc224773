"""Privileged semantics: bare-metal images dump what they see, on our KVM, QEMU TCG and a real KVM.

Each difference is explained by a manual's section, or is a failure. A matrix line is a letter for
each case ('.' done, else the exception) and a checksum of the frames.
"""

from __future__ import annotations

import functools
import itertools
import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests import qemu

METAL = Path(__file__).parent / "metal"
MACHINE = "-M pc -m 16 -nodefaults -display none -no-reboot -accel tcg"
COMMON = (
    "-O1 -ffreestanding -fno-builtin -fno-pic -fno-pie -no-pie -static -nostdlib "
    "-fno-stack-protector -fcf-protection=none -fno-asynchronous-unwind-tables "
    "-mgeneral-regs-only -Wall -Wextra -Werror -Wl,--build-id=none -Wl,-z,noexecstack"
)
IMAGES = {
    "metal32": (
        "-m32 -march=i686",
        "boot32.S metal32.c common.c segments32.c loads32.c transfers32.c returns32.c gates32.c "
        "flags32.c tasks32.c vm86_32.c",
    ),
    "real16": ("-m32", "real16.S"),
    "metal64": ("-m64 -mno-red-zone", "boot64.S metal64.c common.c segments64.c"),
    "debug64": ("-m64 -mno-red-zone", "boot64.S metal64.c common.c debug64.c"),
    "apic64": ("-m64 -mno-red-zone", "boot64.S metal64.c common.c apic64.c"),
    "tlb64": ("-m64 -mno-red-zone", "boot64.S metal64.c common.c tlb64.c"),
    "contexts64": ("-m64 -mno-red-zone -DCONTEXTS", "boot64.S metal64.c common.c tlb64.c"),
    "align32": ("-m32 -march=i686", "boot32.S metal32.c common.c align32.c"),
    "tasks16": ("-m32 -march=i686", "boot32.S metal32.c common.c tasks16.c"),
    "pages32": ("-m32 -march=i686", "boot32.S metal32.c common.c pages.c"),
    "pages64": ("-m64 -mno-red-zone", "boot64.S metal64.c common.c pages.c"),
    "pages57": ("-m64 -mno-red-zone -DLA57", "boot64.S metal64.c common.c pages.c"),
}
# Fault that cannot be delivered -> whether the processor goes on.
SHUTDOWNS = {
    "16": {"NO_IDT": False, "NO_STACK": False},
    "32": {"NO_IDT": False, "NO_GATES": False, "NO_DF_GATE": False, "BUSY_DF_TASK": False},
    "64": {"NO_IDT": False, "NO_GATES": False, "NO_DF_GATE": False, "NO_STACK": False},
}
SHUTDOWNS["64"] |= {"DF_STACK_GONE": False, "IDT_ABSENT": False}
for _bits in ("32", "64"):
    SHUTDOWNS[_bits] |= dict.fromkeys(("IN_DF_HANDLER", "UD_ALONE", "CONTRIBUTORY"), True)
_SHUTDOWN = {
    "16": ("-m32", "shutdown16.S"),
    "32": ("-m32 -march=i686", "boot32.S metal32.c common.c shutdown.c"),
    "64": ("-m64 -mno-red-zone", "boot64.S metal64.c common.c shutdown.c"),
}


@dataclass(frozen=True)
class Explained:
    """A difference from TCG: where, why, which letters (tcg, ours; "==" for the sum alone)."""

    where: str
    why: str
    letters: frozenset[str] = field(default_factory=frozenset)


def _letters(text: str) -> frozenset[str]:
    return frozenset(text.split())


VIF, VIP = 1 << 19, 1 << 20
# Where an access must lie: SDM vol. 3, table 6-7.
ALIGNMENT = {
    **dict.fromkeys(("word_read", "word_write", "word_bit", "word_push"), 2),
    **dict.fromkeys(("selector_read", "selector_write", "environment_16", "control_word"), 2),
    **dict.fromkeys(("dword_read", "dword_write", "dword_add", "dword_locked", "dword_xchg"), 4),
    **dict.fromkeys(("dword_bit", "dword_stos", "dword_movs", "dword_push", "dword_pop"), 4),
    **dict.fromkeys(("near_call", "far_48", "single_read", "environment"), 4),
    **dict.fromkeys(("quad_cmpxchg", "double_read", "extended_read", "integer_64"), 8),
    "byte": 1,
}


def _aligned(boundary: int) -> str:
    """What comes of accesses at eight addresses in a row."""
    return "".join("A" if offset % boundary else "." for offset in range(8))


PRESENT = _letters("89 ab cd ef op st .d")
NO_LIMITS = "TCG checks no segment limits; SDM vol. 3, 5.3"
EXPLAINED: dict[str, list[Explained]] = {
    "metal32": [
        Explained(r"expand-down|gate stack edges|returns to null|task field 08", NO_LIMITS),
        Explained(r"ltr null", "#GP(0); SDM vol. 2, LTR"),
        Explained(r"jmp gate target", "an absent target is #NP; SDM vol. 2, JMP", _letters("GN")),
        Explained(r"call gate target", "CS.RPL becomes the CPL; SDM vol. 2, CALL", _letters("==")),
        Explained(
            r"(gate|int) stack", "an absent inner stack is #SS; SDM vol. 3, 6.15", _letters("TS .S")
        ),
        Explained(r"[li]ret stack", "an absent stack is #SS; SDM vol. 2, RET", _letters("NS")),
        Explained(r"int1", "TCG 7.2 has no INT1; SDM vol. 2, INT n"),
        Explained(r"nested", "EXT is set for a fault while delivering a fault; SDM vol. 3, 6.13"),
        Explained(r"(cli|sti) ", "IRET loads VIF and VIP, PVI; SDM vol. 3, 21.4"),
        Explained(
            r"task field", "a fault after the switch is the new task's, T bit; SDM vol. 3, 8.3"
        ),
        Explained(r"vm86 0[2367abef]", "TCG has no VME; SDM vol. 3, 21.3"),
    ],
    "metal64": [
        Explained(r"\d null ss", "only with RPL = CPL < 3; SDM vol. 2, MOV"),
        Explained(r"push vec", "a non-canonical stack is #SS; SDM vol. 1, 3.3.7.1"),
        Explained(r"ltr|lldt", "types and upper half are checked; SDM vol. 3, 8.2.3"),
        Explained(
            r"far (jmp|call) .2", "L and D are reserved; SDM vol. 3, 5.2.1", _letters("NG .G")
        ),
        Explained(r"jmp gate", "an absent target is #NP; SDM vol. 2, JMP", _letters("GN ==")),
        Explained(r"call gate", "CS.RPL, canonical offset; SDM vol. 2, CALL", _letters("==")),
        Explained(
            r"iret|lret", "L and D, null SS with RPL = CPL, absent SS: #SS", _letters("NG .G NS ==")
        ),
        Explained(r"int gate", "error code vector * 8 + 2; SDM vol. 3, 6.13", _letters("==")),
        Explained(r"int target .[123]", "L and D come before P; SDM vol. 2, INT n", _letters("NG")),
        Explained(
            r"int to nowhere|jump|sys(ret|exit) nowhere", "checked before the transfer; SDM vol. 2"
        ),
        Explained(r"syscall compat", "Intel: #UD outside 64-bit mode; SDM vol. 2, SYSCALL"),
        Explained(r"sysenter compat", "AMD: #UD in long mode; APM vol. 3, SYSENTER"),
    ],
    "debug64": [
        Explained(r"dr6 ", "bit 12 is 0; SDM vol. 3, 18.2.3"),
        Explained(r".*sti 0", "STI holds interrupts, not traps; SDM vol. 2, STI"),
        Explained(
            r"breakpoint at: (mov_ss|ss_load)|(write|access) breakpoint: ss_load",
            "MOV SS holds breakpoints and traps back for one instruction; SDM vol. 3, 6.8.3",
        ),
        Explained(r".*mov_ss_twice", "only the first of several is sure to; SDM vol. 3, 6.8.3"),
        Explained(r"breakpoint at: rep ", "TCG saves no RF; SDM vol. 3, 18.3.1.1"),
        Explained(
            r"breakpoint and step: ", "a trap comes before the next one's fault; SDM vol. 3, 6.9"
        ),
        Explained(r"general detect|debug extensions", "TCG has no GD; SDM vol. 3, 18.2.4"),
        Explained(r"length|port", "LEN masks the address; I/O needs CR4.DE; SDM vol. 3, 18.2.5"),
        Explained(r"branches only", "TCG has no BTF; SDM vol. 3, 18.4.1"),
    ],
    "align32": [
        Explained(r"user code with checks|popf sets it", "TCG has no #AC; SDM vol. 3, table 6-7")
    ],
    "tasks16": [
        Explained(
            r"field (08|1[1235])", "a fault after the switch is the new task's; SDM vol. 3, 8.3"
        )
    ],
    "real16": [Explained(r"\w+_at_end|beyond_32|unreal_other|\w+_beyond|rep_", NO_LIMITS)],
    "apic64": [
        Explained(
            r"(one|two) waits?: sti_mov_ss", "MOV SS holds interrupts too; SDM vol. 3, 6.8.3"
        ),
        Explained(r"registers", "reserved bits of APIC registers are 0; SDM vol. 3, 10.4.1"),
        Explained(r"errors", "TCG's ESR knows absent registers only; SDM vol. 3, 10.5.3"),
    ],
    "pages": [
        Explained(r".*(rights|reserved)", "RSVD comes with P; SDM vol. 3, 4.7", PRESENT),
        Explained(r".*reserved.*[1-3][45] ", "AMD: PML4E bit 8; APM vol. 2, 5.3.3", PRESENT),
        Explained(
            r".*(crossing|absent)",
            "read-modify-write is a write; SDM vol. 3, 4.7",
            _letters("46 57"),
        ),
        Explained(r"canonical jump", "checked before the transfer; SDM vol. 2, JMP"),
        Explained(
            r"canonical (read|write) [06]",
            "the whole operand is checked before its pages; SDM vol. 3, 6.9",
        ),
        Explained(r".*pdpte", "reserved bits of PDPTEs are #GP; SDM vol. 3, 4.4.1", _letters(".G")),
    ],
}

# What TCG has got wrong since.
SINCE_QEMU_8 = {
    "debug64": [
        Explained(r".*rep", "a step over the last iteration ends behind REP; SDM vol. 3, 18.3.1.4")
    ],
    "real16": [Explained(r"sys(enter|exit)", "#GP in real mode; APM vol. 3, SYSENTER")],
}
IN_QEMU_8 = {
    "debug64": [
        Explained(r".*(mov_ss|ss_load)", "MOV SS holds a step back; SDM vol. 3, 6.8.3"),
        Explained(r".*: fault 3", "not canonical is #GP, to a user too; SDM vol. 1, 3.3.7.1"),
    ],
    "real16": [Explained(r"single_step_ss", "MOV SS holds a step back; SDM vol. 3, 6.8.3")],
}


def _explained(name: str) -> list[Explained]:
    """What may differ from the TCG that is here."""
    newer = SINCE_QEMU_8.get(name, []) if qemu.version() >= 8 else []
    newer = newer + (IN_QEMU_8.get(name, []) if qemu.version() == 8 else [])
    return EXPLAINED.get("pages" if "pages" in name else name, []) + newer


def _virtual_interrupts() -> list[str]:
    """CLI and STI by CPL, IOPL, CR4.PVI, with VIF and VIP: SDM vol. 3, 21.4; vol. 2, CLI, STI."""
    told = []
    for pvi, cpl, iopl in itertools.product((0, 1), (0, 3), (0, 3)):
        for name, extra in (("cli", VIF), ("sti", 0), ("sti", VIP)):
            before = 2 | iopl << 12 | extra
            if iopl >= cpl:
                after = before | 0x200 if name == "sti" else before
            elif pvi and name == "cli":
                after = before & ~VIF
            else:
                after = before | VIF if pvi and not extra & VIP else 0
            flags = f".{after:08x} {after:08x}" if after else f"G{0:08x} {before:08x}"
            told.append(f"{name} {cpl}{iopl} {pvi:08x} {extra:06x} {flags}")
    return told


# What the manuals say where TCG does otherwise: these lines of ours begin so.
V86_SEGMENTS = "3002300130033004 3000000"
EXPECTED = {
    "metal32": [
        *_virtual_interrupts(),
        # T bit; VME: INT, POPF, STI with VIF and VIP
        "task field 19=00000001 jmp D898b 3000",
        f"vm86 02: v_int 000000 080000 {V86_SEGMENTS}00ff4 000000000000 0002 3000 3202 vec 0d "
        "err 001a at 3000:00000180 fl 020002",
        f"vm86 02: v_popf 007202 080000 {V86_SEGMENTS}00ffa 000000000000 0004 3000 7202 vec 0d "
        "err 001a at 3000:00000180 fl 024002",
        f"vm86 0e: v_pushf 000000 100000 {V86_SEGMENTS}01000 000000000000 0000 0000 3002 vec 0d "
        "err 0000 at 3000:00000002 fl 120002",  # IOPL 3 and VIF as IF
        f"vm86 06: v_int 000000 080000 {V86_SEGMENTS}01000 000000000000 0000 0000 0000 vec 0d "
        "err 0000 at 3000:00000000 fl 0a0002",  # not redirected
        f"vm86 03: v_int 000000 083000 {V86_SEGMENTS}00ff4 000000000000 0002 3000 3002 vec 0d "
        "err 001a at 3000:00000180 fl 0a3002",  # IOPL 3: IF itself
        f"vm86 0a: v_popf 007202 100000 {V86_SEGMENTS}00ffe 000000000000 0000 0000 7202 vec 0d "
        "err 0000 at 3000:00000001 fl 120002",  # IF with VIP
        f"vm86 0a: v_popf 000002 100200 {V86_SEGMENTS}00ffa 000000000000 0004 3000 3002 vec 0d "
        "err 001a at 3000:00000180 fl 120202",
        f"vm86 0a: v_sti 000000 100000 {V86_SEGMENTS}01000 000000000000 0000 0000 0000 vec 0d "
        "err 0000 at 3000:00000000 fl 120002",
    ],
    "align32": [f"user code with checks: {name} {_aligned(n)}" for name, n in ALIGNMENT.items()]
    + ["popf sets it A 00040000"],
    "debug64": [
        "single step: sti 0 01@01:ffff4ff0t 01@02:ffff4ff0t",
        "breakpoint at: mov_ss 3 = 40@08:ffff0ff0",
        "breakpoint at: rep 0 01@05:ffff0ff1 = 40@0a:ffff0ff0",
        "breakpoint and step: nops 3 01@01:ffff4ff0t 01@02:ffff4ff0t 01@02:ffff0ff1t = 40@04",
        "write breakpoint: ss_load 3 01@02:ffff0ff1 = 40@08:ffff0ff0",
        "access breakpoint: ss_load 3 01@02:ffff0ff1 01@05:ffff0ff1 = 40@08:ffff0ff0",
        "access breakpoint: ss_load_ud 0 01@02:ffff0ff1 = 06@04:ffff0ff0",
        "general detect: read_dr 0 01@00:ffff2ff0 = 40@09:ffff0ff0",
        "general detect: read_dr4 0 01@00:ffff2ff0 = 40@09:ffff0ff0",
        "debug extensions: write_dr 0 01@00:ffff2ff0 = 40@06:ffff0ff0",
        "debug extensions: port 0 " + "." * 48,
        "debug extensions: port 4 ......x..........xx........xxxx...........x.....",
        "branches only: rep 0 = 40@0a:ffff0ff0",
        "branches only: call_ret 0 01@0a:ffff4ff0t = 40@0d:ffff0ff0",
        "branches only: branch 0 01@03:ffff4ff0t 01@09:ffff4ff0t 01@0e:ffff4ff0t = 40@11",
        "branches only: branch_on 0 01@04:ffff4ff0t 01@08:ffff4ff0t 01@0c:ffff4ff0t "
        "01@11:ffff4ff0t 01@1e:ffff4ff0t = 40@21",  # each leads to what follows it, but RET
    ],
    "real16": [  # name, vector, ip
        "word_at_end 000d 03af",
        "stack_at_end 000c 03e8",
        "beyond_32 000d 040e",
        "unreal_read 0020",
        "unreal_reload 0020",
        "unreal_other 000d",
        "iret_beyond 000d",
        "rep_to_end 000d 078e 1000 0000 0000 8000 1000 0000 00000000 00000000 00000006 00000000 "
        "00000000 0000ffff",
    ],
    "apic64": [
        "one waits: sti_mov_ss 0 31@06/30 = 40@09",
        "registers: ones 0007000f",
        "registers: ones ff000000",
        "errors: vector 5 to itself 00000020",
        "errors: and its interrupt 0 31@02/30 = 40@06",
    ],
    "debug64-amd": ["single step: mov_ss_twice 3 01@02:ffff4ff0t 01@07:ffff4ff0t"],
    "debug64-intel": ["single step: mov_ss_twice 3 01@02:ffff4ff0t 01@06:ffff4ff0t"],
    "pages64-amd": [": reserved 14 ---..-.dd...----"],
    "pages64-intel": [": reserved 14 ---..-.d....----"],
}


def is_title(line: str) -> bool:
    """Tell whether a line names what follows it: words, and no number."""
    return bool(re.fullmatch(r"[a-z][a-z0-9 ]+", line)) and not re.search(r" [0-9a-f]{8}$", line)


def by_area(lines: list[str]) -> list[str]:
    """Put the title it stands under before each line."""
    area, out = "", []
    for line in lines:
        area = line if is_title(line) else area
        out.append(f"{area}: {line}")
    return out


def build(out: Path, name: str, flags: str, sources: str) -> Path:
    """Compile an image to a 64 KiB ROM."""
    elf, rom = out / f"{name}.elf", out / f"{name}.bin"
    link = [f"-Wl,-T,{METAL / 'metal.ld'}", "-o", str(elf)]
    inputs = [str(METAL / source) for source in sources.split()]
    subprocess.run(["gcc", *COMMON.split(), *flags.split(), *link, *inputs], check=True, timeout=60)
    sections = ["-j", ".text", "-j", ".reset", "--gap-fill", "0xcc"]
    subprocess.run(["objcopy", "-O", "binary", *sections, str(elf), str(rom)], check=True)
    assert rom.stat().st_size == 65536
    return rom


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """All images that dump their state and end."""
    out = tmp_path_factory.mktemp("metal")
    return {name: build(out, name, *how) for name, how in IMAGES.items()}


@functools.cache
def tcg(image: Path, model: str, *, ends: bool = True) -> list[str]:
    """Return the dump under QEMU TCG. ends: by the debug exit, and not by a triple fault."""
    log = image.with_suffix(f".{model}.txt")
    doors = ["-debugcon", f"file:{log}", "-device", "isa-debug-exit,iobase=0xf4"]
    command = ["qemu-system-x86_64", *MACHINE.split(), "-cpu", model, "-bios", str(image), *doors]
    done = subprocess.run(command, check=False, timeout=120)
    assert done.returncode == (1 if ends else 0), "the image ends through the debug exit"
    return log.read_text().splitlines()


def section_of(line: str, current: str) -> str:
    """Return what a line is about: its own words, or those of the last line that had some."""
    return current if re.match(r"\s*([.\w?]{2,256})?( [0-9a-f]{8})$", line) else line[:60]


def unexplained(theirs: list[str], ours: list[str], rules: list[Explained]) -> list[str]:
    """Return the differing lines that no rule covers."""
    bad = []
    section = area = ""
    for line, (a, b) in enumerate(zip(theirs, ours, strict=False), 1):
        section = section_of(a, section)
        area = a if is_title(a) else area
        if a == b:
            continue
        matrix = re.search(r"[.\w#?-]{32}", a) is not None
        pairs = {x + y for x, y in zip(a[:-9], b[:-9], strict=False) if x != y} or {"=="}
        for rule in rules:
            if not any(re.match(rule.where, s) for s in (section, area, f"{area}: {section}")):
                continue
            if not matrix or not rule.letters or pairs <= rule.letters | {"=="}:
                break
        else:
            bad.append(f"{line}: {section}\n  tcg  {a[:300]}\n  ours {b[:300]}")
    return bad


# The interpreter; the translator, even where the code is cold.
ENGINES = ["emulate", "at-once"]


def on_kvm(
    runner: Path, image: Path, *args: str, engine: str = "translate", lockstep: bool = False
) -> subprocess.CompletedProcess[str]:
    """Return the dump by a KVM: runner.c says which one `args` mean."""
    env = {**os.environ, "KVMISH_ENGINE": "emulate" if engine == "emulate" else "translate"}
    return subprocess.run(
        [runner, image, *args, *(["at-once"] if engine == "at-once" else [])],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=env | ({"KVMISH_LOCKSTEP": "1"} if lockstep else {}),
    )


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("name", "vendor", "model"),
    [
        ("metal32", "intel", "qemu64"),
        ("real16", "amd", "qemu64"),
        ("metal64", "intel", "Nehalem"),
        ("metal64", "amd", "qemu64"),
        ("debug64", "amd", "qemu64"),
        ("debug64", "intel", "qemu64"),
        ("apic64", "amd", "qemu64"),
        ("apic64", "intel", "qemu64"),
        ("align32", "amd", "qemu64"),
        ("tasks16", "intel", "qemu64"),
        ("tasks16", "amd", "qemu64"),
        ("tlb64", "intel", "max,phys-bits=40"),
        ("tlb64", "amd", "max,phys-bits=40"),
        ("pages32", "intel", "max,phys-bits=40"),
        ("pages64", "intel", "max,phys-bits=40"),
        ("pages64", "amd", "max,phys-bits=40"),
        ("pages57", "intel", "max,phys-bits=40"),
    ],
)
def test_same_state_as_tcg(
    images: dict[str, Path],
    c_program: Callable[..., Path],
    name: str,
    vendor: str,
    model: str,
    engine: str,
) -> None:
    if "pages" in name and qemu.version() == 8:
        pytest.skip("QEMU 8's TCG reads what is not canonical, and aborts at tables in no memory")
    done = on_kvm(c_program("cpu/metal/runner.c"), images[name], vendor, engine=engine)
    assert done.returncode == 0, done.stderr
    theirs, ours = tcg(images[name], model), done.stdout.splitlines()
    assert len(theirs) == len(ours) > 50
    assert ours[-1] == theirs[-1] == "end"
    bad = unexplained(theirs, ours, _explained(name))
    assert not bad, "\n".join(bad)
    told = by_area(ours)
    wanted = EXPECTED.get(name, []) + EXPECTED.get(f"{name}-{vendor}", [])
    missing = [e for e in wanted if not any(line.startswith(e) for line in told + ours)]
    assert not missing, "\n".join(missing)


@pytest.fixture(scope="module")
def shutdown_image(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Return a way to the image of a kind, which is made once."""
    out = tmp_path_factory.mktemp("shutdown")

    @functools.cache
    def image(bits: str, how: str) -> Path:
        flags, sources = _SHUTDOWN[bits]
        return build(out, f"{bits}-{how}", f"{flags} -DHOW={how}", sources)

    return image


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("bits", "how"), [(bits, how) for bits, kinds in SHUTDOWNS.items() for how in kinds]
)
def test_shutdown(
    shutdown_image: Callable[[str, str], Path],
    c_program: Callable[..., Path],
    bits: str,
    how: str,
    engine: str,
) -> None:
    """A triple fault is KVM_EXIT_SHUTDOWN, and what is less is not; under TCG likewise."""
    image = shutdown_image(bits, how)
    goes_on = SHUTDOWNS[bits][how]
    done = on_kvm(c_program("cpu/metal/runner.c"), image, "intel", engine=engine)
    ours = done.stdout.splitlines()
    assert done.returncode == (0 if goes_on else 3), done.stderr
    assert ours[0] == "before"
    assert goes_on == (ours[-1] == "end")
    if bits == "16" and how == "NO_STACK":
        return  # TCG has no limits in real mode: it wraps
    theirs = tcg(image, "qemu64", ends=goes_on)
    if how == "UD_ALONE":  # EXT is set for a fault while delivering a fault; SDM vol. 3, 6.13
        assert ours[1].startswith("N vec 0b err 0033 ")
        assert theirs[1].startswith("N vec 0b ")
    else:
        assert ours == theirs


def _refusals(pcide: bool) -> list[str]:
    """What INVPCID and MOV to CR3 refuse: SDM vol. 2, INVPCID, MOV; vol. 3, 4.10.1."""
    told = [f"refused with{'' if pcide else 'out'} contexts"]
    for kind in range(6):
        bad = {
            "context_0": False,
            "context_fff": kind < 2 and not pcide,
            "reserved_12": True,
            "reserved_63": True,
            "not_canonical": kind == 0,
        }
        told += [f"invpcid {n} {kind} {'G' if b or kind > 3 else '.'} 0000" for n, b in bad.items()]
    told += ["invpcid type_high 0 G 0000", "invpcid user G 0000", "invpcid lock U 0000"]
    told += ["invpcid absent P 0000", "invpcid nowhere G 0000"]
    told += [f"cr3 keep {'.' if pcide else 'G'} 0000"]
    told += ["cr3 reserved_62 G 0000", "cr3 reserved_40 G 0000", "cr3 low . 0000"]
    told += [f"cr4 contexts_from_low {'.' if pcide else 'G'} 0000"]
    return told + ["cr0 no paging G 0000"] * pcide


def _contexts() -> list[str]:
    """The dump of contexts64 by the manual, as TCG has no PCID; without the sums."""
    told = []
    for title in ("without", "with"):
        told.append(f"{title} global pages")
        for level in "123":
            # before; INVPCID done, new frame, accessed; done, absent; present again
            seen = "00.0a.x0" if level == "3" else "AA.Ba.xA"
            told += [f"invpcid_0 {level}{kind} {seen}" for kind in "ng"]
            told += [f"invpcid_1 {level}n {seen}"]
            told += [f"invpcid_2 {level}{kind} {seen}" for kind in "ng"]
            told += [f"invpcid_3 {level}n {seen}"]
    told += [*_refusals(pcide=False), "contexts on . 0000", *_refusals(pcide=True), "two contexts"]
    steps = {"invlpg": "..", "invlpg_within": "..", "mov_cr3": ".", "toggle_pge": ""}
    steps |= {f"invpcid_{kind}": "." for kind in range(4)}
    # each context's own frame; context 2 without bit 63; how; absent in 1, still there in 2
    told += [f"contexts {way} .A.B.A.B{2:016x} {how}.x.B" for way, how in steps.items()]
    return [*told, "contexts off . 0000"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("vendor", ["intel", "amd"])
def test_process_contexts(
    images: dict[str, Path], c_program: Callable[..., Path], vendor: str, engine: str
) -> None:
    done = on_kvm(c_program("cpu/metal/runner.c"), images["contexts64"], vendor, engine=engine)
    assert done.returncode == 0, done.stderr
    told = [re.sub(r" [0-9a-f]{8}$", "", line) for line in done.stdout.splitlines()]
    assert told == [*_contexts(), "end"]


LOCKSTEP_QUICK = {
    ("real16", "emulate"),
    ("contexts64", "emulate"),
    ("contexts64", "translate"),
    ("apic64", "translate"),
    ("debug64", "translate"),
    ("pages64", "translate"),
}


@pytest.mark.parametrize(
    ("name", "engine"),
    [
        pytest.param(
            name, engine, marks=[] if (name, engine) in LOCKSTEP_QUICK else pytest.mark.full
        )
        for name in (
            "real16",
            "contexts64",
            "apic64",
            "debug64",
            "pages64",
            "metal32",
            "metal64",
            "pages32",
        )
        for engine in ("emulate", "translate")
    ],
)
def test_fast_path_in_lockstep_with_the_careful_path(
    images: dict[str, Path], c_program: Callable[..., Path], name: str, engine: str
) -> None:
    runner = c_program("cpu/metal/runner.c")
    alone = on_kvm(runner, images[name], "intel", engine=engine)
    both = on_kvm(runner, images[name], "intel", engine=engine, lockstep=True)
    assert both.returncode == 0, both.stderr
    assert both.stderr == ""
    assert both.stdout == alone.stdout


@pytest.mark.host_kvm
@pytest.mark.parametrize("name", IMAGES)
def test_same_state_as_a_real_kvm(
    images: dict[str, Path],
    c_program: Callable[..., Path],
    need: Callable[[object, str], None],
    name: str,
) -> None:
    need(os.access("/dev/kvm", os.R_OK | os.W_OK), "/dev/kvm")
    cpuinfo = Path("/proc/cpuinfo").read_text()
    if not re.search(r"^flags.* (vmx|svm) ", cpuinfo, re.M):
        pytest.skip("this /dev/kvm is not the processor's own: it refuses these guests")
    runner = c_program("cpu/metal/runner.c")
    vendor = "amd" if "AuthenticAMD" in cpuinfo else "intel"
    theirs = on_kvm(runner, images[name], vendor, "/dev/kvm")
    assert theirs.returncode == 0, theirs.stderr
    ours = on_kvm(runner, images[name], vendor)
    assert ours.stdout.splitlines() == theirs.stdout.splitlines()
