"""The translator against the interpreter: random sequences, changing page tables.

Instructions alone: tests/isa.
"""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

FULL_S, QUICK_S = 1700, 200  # limits of a run that has company


@pytest.mark.timeout(FULL_S + 100)
@pytest.mark.parametrize("asan", [False, pytest.param(True, marks=pytest.mark.full)])
def test_sequences(c_program: Callable[..., Path], asan: bool, full: bool) -> None:
    """Memory at the ends of pages, absent, read-only and aliased; loops, calls, changed code."""
    if platform.machine() != "x86_64":
        pytest.skip("translates for an x86-64 host")
    cases = 100_000 if full and not asan else 1500
    program = c_program("jit/sequences.c", asan=asan)
    result = subprocess.run(
        [program, str(cases), str(time.time_ns())],
        capture_output=True,
        text=True,
        timeout=FULL_S if full else QUICK_S,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]


@pytest.mark.timeout(FULL_S + 100)
@pytest.mark.parametrize("asan", [False, pytest.param(True, marks=pytest.mark.full)])
def test_page_tables(c_program: Callable[..., Path], asan: bool, full: bool) -> None:
    """Page tables changed and invalidated at random by the code that runs by them."""
    if platform.machine() != "x86_64":
        pytest.skip("translates for an x86-64 host")
    program = c_program("jit/pages.c", asan=asan)
    result = subprocess.run(
        [program, "2000" if full and not asan else "30", str(time.time_ns())],
        capture_output=True,
        text=True,
        timeout=FULL_S if full else QUICK_S,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]


def test_page_tables_and_stray_code(c_program: Callable[..., Path]) -> None:
    """A stack executed as code wrote through the entry's address that a routine had left in RDX."""
    program = c_program("jit/pages.c")
    result = subprocess.run(
        [program, "1", "12356866401089418340"],
        capture_output=True,
        text=True,
        timeout=QUICK_S,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]


@pytest.mark.timeout(FULL_S + 100)
@pytest.mark.parametrize("asan", [False, pytest.param(True, marks=pytest.mark.full)])
@pytest.mark.parametrize("engine", ["translate", "emulate", "lockstep"])
def test_hostile_code(c_program: Callable[..., Path], engine: str, asan: bool, full: bool) -> None:
    """It can make the processor slow, and nothing else."""
    if platform.machine() != "x86_64":
        pytest.skip("translates for an x86-64 host")
    program = c_program("jit/hostile.c", asan=asan)
    result = subprocess.run(
        [program, "2000" if full and not asan else "30", str(time.time_ns()), engine],
        capture_output=True,
        text=True,
        timeout=FULL_S if full else QUICK_S,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]


def test_overlapping_strings(c_program: Callable[..., Path], full: bool) -> None:
    """One that wrote over itself was read anew at once, as Intel's processors do; AMD's go on."""
    if platform.machine() != "x86_64":
        pytest.skip("translates for an x86-64 host")
    program = c_program("jit/overlap.c")
    result = subprocess.run(
        [program, "100000" if full else "3000", str(time.time_ns())],
        capture_output=True,
        text=True,
        timeout=QUICK_S,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]


@pytest.mark.parametrize("name", ["boundary", "host"])
def test_traps(c_program: Callable[..., Path], name: str) -> None:
    """boundary: each access at each distance from a page's end. host: AC, DF, MXCSR, x87 in C."""
    if platform.machine() != "x86_64":
        pytest.skip("translates for an x86-64 host")
    program = c_program(f"jit/{name}.c")
    result = subprocess.run([program], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]


@pytest.mark.parametrize(
    "name",
    [
        "unseen",
        "tlb", "kick", "high", "span", "cross", "links", "again", "privilege", "nest", "copies",
        "rewritten", "gone", "renew", "grow", "kept", "refill", "reads", "shadow", "wanted",
        "reach", "zero", "flat",
    ],
)  # fmt: skip
def test_parts(c_program: Callable[..., Path], name: str) -> None:
    """tlb: a copy of 16 MiB missed at every step where the distance was a multiple of the TLB's
    size. kick: a PAUSE loop ran on for a whole slice, and munmap on two vCPUs took 20 times
    as long. high: what lies above 2^46, as all position-independent programs do, was interpreted.
    span: an instruction across two pages has the second one changed under it.
    unseen: code that a device had overwritten was decoded from what had been there, for as long
    as its page was not looked up anew.
    cross: no bug; what becomes of a probe that is missed again and again.
    links: no bug; a page that is called from another is remapped, written, not executable any more.
    again: no bug; a loop that begins with what looks at the flags of its end.
    privilege: a jump that waited to be linked was linked to what another instruction led to.
    nest: no bug; a short loop in another, at the ends of pages, while pages change.
    copies: no bug; who leaves one of a body's copies, and how many instructions that were.
    renew: no bug; a slice that goes on in translated code, a kick, and the budget's end.
    rewritten: a byte of code that was written as it was had its page decoded and translated anew;
    data in a page that had once been executed took the slow path for good.
    grow: a block whose instructions went when the cache grew was empty, and what is behind it ran.
    refill: which pages the TLB gets back by itself; an NMI waited for a whole slice of misses.
    gone: memory that went without a word left a block at its start, with what it had done.
    shadow: who left translated code right behind an STI found no shadow of it.
    kept: FLDCW lost flags where its operand needed no probe. What a kept address stands for goes.
    reads: CMP EAX, imm, MOV and ADD from a register counted as writes of what they read;
    flags were saved before a jump to who overwrites them.
    reach: a jump of nearly 2 GiB was linked, and led 4 GiB away.
    zero: no bug; flags that are known because a branch is taken.
    flat: no bug; a segment that is no longer flat in the middle of a 32-bit block.
    wanted: no bug; flags that nobody looks at.
    """
    program = c_program(f"jit/{name}.c")
    result = subprocess.run([program], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("engine", ["emulate", "translate"])
def test_more_code_than_room(c_program: Callable[..., Path], engine: str) -> None:
    """A full cache was dropped whole, and gcc in a guest did little but fill it again."""
    program = c_program("jit/evict.c")
    environment = os.environ | {"KVMISH_ENGINE": engine}
    result = subprocess.run(
        [program], capture_output=True, text=True, timeout=120, check=False, env=environment
    )
    assert result.returncode == 0, result.stdout + result.stderr
