"""Parts of the VMM that need no machine: options, CPU models, console, event loop, report."""

from __future__ import annotations

import asyncio
import json
import os
import struct
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kvm_core.abi import CPUID_FLAG_SIGNIFCANT_INDEX, KvmCpuidEntry2
from kvm_core.api import apply_cpu_model, cpu_model_names
from kvm_core.errors import ConfigError
from vmmuser import cpuid
from vmmuser.config import Disk, MachineConfig, parse_disk, parse_memory, parse_vcpus
from vmmuser.console import Keys, Output
from vmmuser.loop import EventLoop
from vmmuser.memory import GuestMemory
from vmmuser.report import Report, process_start


class TestOptions:
    @pytest.mark.parametrize(
        ("text", "mib"), [("256", 256), ("512M", 512), ("2G", 2048), ("1g", 1024), (" 64m ", 64)]
    )
    def test_memory(self, text: str, mib: int) -> None:
        assert parse_memory(text) == mib

    @pytest.mark.parametrize(
        "text", ["", "x", "-1", "0", "3", "1.5G", "1T", "99999999", "\uff1256"]
    )
    def test_bad_memory(self, text: str) -> None:
        with pytest.raises(ConfigError, match="-m"):
            parse_memory(text)

    def test_processors(self) -> None:
        assert parse_vcpus("4") == 4
        for text in ("0", "256", "-1", "two", "", "1.0", "²"):
            with pytest.raises(ConfigError, match="--smp"):
                parse_vcpus(text)

    def test_disk(self) -> None:
        assert parse_disk("a.img") == Disk("a.img")
        assert parse_disk("a,b.img,ro") == Disk("a,b.img", read_only=True)
        assert parse_disk("a,b.img") == Disk("a,b.img")


def entry(function: int, index: int = 0, **registers: int) -> KvmCpuidEntry2:
    flags = CPUID_FLAG_SIGNIFCANT_INDEX if function in (4, 7, 0xB, 0xD) else 0
    return KvmCpuidEntry2(function=function, index=index, flags=flags, **registers)


def supported(vendor: str = "GenuineIntel") -> list[KvmCpuidEntry2]:
    ones = 0xFFFFFFFF
    b, d, c = struct.unpack("<III", vendor.encode())
    return [
        entry(0, eax=0x1F, ebx=b, ecx=c, edx=d),
        entry(1, eax=0x123, ebx=0xFF000800, ecx=ones, edx=ones),
        entry(4, 0, eax=0xFC00C121),
        entry(4, 3, eax=0xFC00C163),
        entry(7, 0, eax=1, ebx=ones, ecx=ones, edx=0x1234),
        entry(7, 1, eax=ones),
        entry(0xB, 0, eax=7, ebx=9, edx=42),
        entry(0xD, 0, eax=0x2FF, ebx=2696, ecx=2696),
        entry(0xD, 1, eax=0xF, ebx=2696, ecx=0x100),
        entry(0xD, 2, eax=256, ebx=576),
        entry(0xD, 9, eax=8, ebx=2688),
        entry(0x80000001, ecx=ones, edx=ones),
        *(
            entry(function, eax=1, ebx=2, ecx=3, edx=4)
            for function in range(0x80000002, 0x80000005)
        ),
        entry(0x80000008, eax=0x3030, ecx=0xFFFF),
        entry(0x8000001E, eax=77, ebx=77),
        entry(0x40000001, eax=0x01000007),
    ]


def find(entries: list[KvmCpuidEntry2], function: int, index: int = 0) -> KvmCpuidEntry2:
    (found,) = [e for e in entries if (e.function, e.index) == (function, index)]
    return found


class TestCpuid:
    def test_host_is_unmasked_and_a_copy(self) -> None:
        source = supported()
        entries = apply_cpu_model(source, "host")
        assert [bytes(e) for e in entries] == [bytes(e) for e in source]
        entries[0].eax = 0
        assert source[0].eax == 0x1F

    def test_unknown_model(self) -> None:
        with pytest.raises(ConfigError, match="--cpu pentium"):
            apply_cpu_model(supported(), "pentium")

    @pytest.mark.parametrize(
        ("model", "has", "has_not"),
        [
            ("qemu64", ["sse3", "cx16"], ["ssse3", "popcnt", "avx", "xsave", "aes"]),
            ("x86-64-v2", ["sse4_2", "popcnt", "ssse3"], ["avx", "xsave", "movbe"]),
            ("x86-64-v3", ["avx", "fma", "movbe", "xsave", "f16c"], ["aes"]),
        ],
    )
    def test_levels(self, model: str, has: list[str], has_not: list[str]) -> None:
        ecx = find(apply_cpu_model(supported(), model), 1).ecx
        bits = {"sse3": 0, "ssse3": 9, "fma": 12, "cx16": 13, "sse4_2": 20, "movbe": 22}
        bits |= {"popcnt": 23, "aes": 25, "xsave": 26, "avx": 28, "f16c": 29}
        assert all(ecx >> bits[name] & 1 for name in has)
        assert not any(ecx >> bits[name] & 1 for name in has_not)

    def test_names(self) -> None:
        assert set(cpu_model_names()) == {"host", "x86-64-v2", "x86-64-v3", "qemu64"}

    def test_v3_is_what_the_psabi_says(self) -> None:
        entries = apply_cpu_model(supported(), "x86-64-v3")
        leaf7 = find(entries, 7).ebx
        assert all(leaf7 >> bit & 1 for bit in (3, 5, 8))  # BMI1, AVX2, BMI2
        assert not leaf7 >> 16 & 1  # AVX-512F
        assert find(entries, 0x80000001).ecx >> 5 & 1  # LZCNT

    def test_a_model_needs_its_instructions(self) -> None:
        source = supported()
        for e in source:
            if e.function == 1:
                e.ecx = 1
        with pytest.raises(ConfigError, match="--cpu x86-64-v3: needs"):
            apply_cpu_model(source, "x86-64-v3")

    def test_vulnerability_bits_stay(self) -> None:
        source = supported()
        find(source, 7).edx = 0xBC000400 | 1 << 4  # FSRM, which Linux takes to imply ERMS
        assert find(apply_cpu_model(source, "qemu64"), 7).edx == 0xBC000400
        assert find(apply_cpu_model(source, "host"), 7).edx == 0xBC000410

    def test_xsave_shrinks_with_the_model(self) -> None:
        v3 = apply_cpu_model(supported(), "x86-64-v3")
        assert find(v3, 0xD).eax == 7
        assert find(v3, 0xD).ecx == 832
        assert [e.index for e in v3 if e.function == 0xD] == [0, 1, 2]
        assert not [e for e in apply_cpu_model(supported(), "x86-64-v2") if e.function == 0xD]

    def test_brand_names_the_model(self) -> None:
        entries = apply_cpu_model(supported(), "x86-64-v2")
        words = [find(entries, f) for f in (0x80000002, 0x80000003, 0x80000004)]
        raw = b"".join(struct.pack("<4I", e.eax, e.ebx, e.ecx, e.edx) for e in words)
        assert raw.rstrip(b"\0") == b"kvmish x86-64-v2"

    @pytest.mark.parametrize("count", [1, 2, 3, 4, 255])
    def test_topology(self, count: int) -> None:
        for apic_id in (0, count - 1):
            entries = cpuid.for_vcpu(supported(), apic_id, count)
            one = find(entries, 1)
            assert one.ebx >> 24 == apic_id
            assert one.ebx >> 16 & 0xFF == count
            assert one.edx >> 28 & 1 == int(count > 1)
            assert one.ebx & 0xFFFF == 0x0800
            threads, cores = find(entries, 0xB, 0), find(entries, 0xB, 1)
            assert (threads.eax, threads.ebx, threads.ecx) == (0, 1, 0x100)
            assert (cores.ebx, cores.ecx, cores.edx) == (count, 0x201, apic_id)
            assert 1 << cores.eax >= count
            assert find(entries, 4, 0).eax >> 14 & 0xFFF == 0  # L1 is a core's own
            assert find(entries, 4, 3).eax >> 14 & 0xFFF == count - 1

    def test_amd_topology(self) -> None:
        entries = cpuid.for_vcpu(supported("AuthenticAMD"), 2, 4)
        assert find(entries, 0x80000008).ecx == 0x2003
        assert find(entries, 0x80000001).ecx & 2
        assert find(entries, 0x8000001E).eax == 2

    def test_physical_address_bits(self) -> None:
        assert cpuid.physical_address_bits(supported()) == 0x30


class TestKeys:
    def test_escapes(self) -> None:
        calls: list[str] = []
        keys = Keys({ord("x"): lambda: calls.append("x")})
        assert keys.feed(b"ab") == b"ab"
        assert keys.feed(b"c\x01") == b"c"
        assert keys.feed(b"Xd") == b"d"
        assert calls == ["x"]
        assert keys.feed(b"\x01\x01\x01a") == b"\x01\x01"
        assert keys.feed(b"\x01zq") == b"q"  # an unknown command is swallowed


class TestOutput:
    def make(self) -> tuple[Output, int, list[str]]:
        read_end, write_end = os.pipe()
        marks: list[str] = []
        output = Output(write_end, {"one": b"mark one", "two": b"two"})
        output.on_mark = marks.append
        return output, read_end, marks

    def test_marks_across_pieces_are_seen_once(self) -> None:
        output, _, marks = self.make()
        for piece in (b"a mar", b"k o", b"ne mark one", b"tw", b"o"):
            output.write(piece)
            output.flush()
        assert marks == ["one", "two"]
        assert output.seen["one"] <= output.seen["two"]

    def test_flush_is_asked_for_once(self) -> None:
        output, read_end, _ = self.make()
        asked: list[int] = []
        output.after_ns = lambda ns, call: asked.append(ns)
        for _ in range(100):
            output.write(b"x")
        assert len(asked) == 1
        output.flush()
        assert os.read(read_end, 1000) == b"x" * 100
        output.write(b"y")
        assert len(asked) == 2

    def test_without_a_clock_a_line_leaves_when_it_ends(self) -> None:
        output, read_end, marks = self.make()
        os.set_blocking(read_end, False)
        for byte in b"mark one":
            output.write(bytes([byte]))
        with pytest.raises(BlockingIOError):
            os.read(read_end, 1000)
        output.write(b"\n")
        assert os.read(read_end, 1000) == b"mark one\n"
        assert marks == ["one"]

    def test_reader_gone(self) -> None:
        output, read_end, marks = self.make()
        os.close(read_end)
        for _ in range(2):
            output.write(b"mark one")
            output.flush()
        assert output.lost
        assert marks == ["one"]


class TestLoop:
    def test_timers_in_order_and_cancelled(self) -> None:
        loop = EventLoop(threading.RLock())
        fired: list[int] = []
        done = asyncio.Event()
        loop.after_ns(2_000_000, lambda: fired.append(2))
        loop.after_ns(1_000_000, lambda: fired.append(1))
        loop.after_ns(1_500_000, lambda: fired.append(9)).cancel()
        loop.after_ns(3_000_000, done.set)
        loop.run(done.wait())
        assert fired == [1, 2]
        loop.close()
        loop.close()

    def test_calls_from_another_thread(self) -> None:
        loop = EventLoop(threading.RLock())
        done, timed = asyncio.Event(), asyncio.Event()

        def other() -> None:
            loop.after_ns(1, timed.set)
            loop.soon(done.set)

        thread = threading.Thread(target=other)
        thread.start()
        loop.run(asyncio.wait_for(done.wait(), 10))
        loop.run(asyncio.wait_for(timed.wait(), 10))
        thread.join()
        loop.close()
        loop.soon(done.set)
        loop.remove_reader(0)

    def test_readers_and_timers_hold_the_lock(self) -> None:
        lock = threading.RLock()
        loop = EventLoop(lock)
        read_end, write_end = os.pipe()
        seen: list[bytes] = []
        done = asyncio.Event()

        def ready() -> None:
            seen.append(os.read(read_end, 10))
            assert lock._is_owned()  # type: ignore[attr-defined]
            loop.after_ns(0, timer)

        def timer() -> None:
            assert lock._is_owned()  # type: ignore[attr-defined]
            done.set()

        loop.add_reader(read_end, ready)
        os.write(write_end, b"z")
        loop.run(asyncio.wait_for(done.wait(), 10))
        loop.remove_reader(read_end)
        loop.remove_reader(read_end)
        assert seen == [b"z"]
        loop.close()

    def test_what_is_asked_before_it_runs(self) -> None:
        loop = EventLoop(threading.RLock())
        read_end, write_end = os.pipe()
        seen: list[str] = []
        loop.soon(seen.append, "soon")
        loop.add_reader(read_end, partial(seen.append, "a reader that is gone"))
        loop.remove_reader(read_end)
        os.write(write_end, b"z")
        thread = threading.Thread(target=loop.soon, args=(seen.append, "a thread"))
        thread.start()
        thread.join()
        assert not seen

        async def turn() -> list[str]:
            await asyncio.sleep(0)
            return list(seen)

        loop.soon(lambda: 1 // 0)
        failures: list[dict[str, Any]] = []
        loop.on_failure = failures.append
        loop.soon(seen.append, "behind a failure")
        assert loop.run(turn()) == ["soon", "a thread", "behind a failure"]
        assert [type(failure["exception"]) for failure in failures] == [ZeroDivisionError]
        loop.close()
        os.close(read_end)
        os.close(write_end)

    def test_never_run(self) -> None:
        loop = EventLoop(threading.RLock())
        loop.after_ns(0, lambda: 1 // 0)
        loop.close()

    def test_close_cancels_tasks(self) -> None:
        loop = EventLoop(threading.RLock())
        task = loop.asyncio.create_task(asyncio.sleep(1000))
        loop.close()
        assert task.cancelled()


def test_imports_before_the_first_instruction() -> None:
    """They take longer than all else until then."""
    program = """
import sys
import vmmuser.cli
from vmmuser.bus import Bus
from vmmuser.loop import EventLoop
EventLoop(Bus().lock).after_ns(0, print)
vmmuser.cli._parser()
slow = "asyncio", "ssl", "subprocess", "tempfile", "json", "qemu", "lxml", "cffi"
slow += "click", "dataclasses", "inspect", "logging", "shutil", "datetime", "pathlib"
print(*[name for name in slow if name in sys.modules])
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_memory_file_that_its_file_system_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="1073741824 MiB do not fit into its file system"):
        GuestMemory([(0, 1 << 50)], str(tmp_path / "ram"))
    assert not list(tmp_path.iterdir())


def test_report(tmp_path: Path) -> None:
    report = Report(MachineConfig("k"), "emulate", "direct", "microvm")
    report.message, report.seconds, report.seconds_to_kernel = "done", 2.0, 1.0
    report.instructions, report.mips = 1234567, 12.3
    report.exits = {"io": 10}
    assert json.loads(report.json())["engine"] == "emulate"
    text = report.text()
    assert "kernel 1.00 s" in text
    assert "1,234,567 guest instructions" in text
    assert "userland" not in text


def test_process_start_is_in_the_past() -> None:
    assert 0 < time.monotonic() - process_start() < 24 * 3600
