"""Our ACPI tables, judged by ACPICA's own compiler, and the AML encoder against its output."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.boot.fakevm import board
from vmmuser.acpi import aml
from vmmuser.acpi.tables import Placed
from vmmuser.config import Disk, MachineConfig

Need = Callable[[bool, str], None]


@pytest.fixture
def iasl(need: Need) -> str:
    path = shutil.which("iasl")
    need(path is not None, "iasl (acpica-tools)")
    assert path
    return path


@pytest.fixture
def placed(tmp_path: Path) -> Placed:
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(4096))
    config = MachineConfig(kernel="", memory_mib=64, vcpus=3, disks=[Disk(str(disk))])
    with board(config) as (microvm, _):
        return microvm.acpi()


def read_tables(placed: Placed) -> dict[str, bytes]:
    """Follow RSDP, XSDT and FADT as a kernel does; every checksum is verified."""

    def at(address: int) -> bytes:
        raw = placed.image[address - placed.base :]
        size = struct.unpack_from("<I", raw, 4)[0]
        assert len(raw) >= size
        return raw[:size]

    rsdp = placed.image[placed.rsdp - placed.base :][:36]
    assert rsdp[:8] == b"RSD PTR "
    assert sum(rsdp[:20]) & 0xFF == 0
    assert sum(rsdp) & 0xFF == 0
    xsdt = at(struct.unpack_from("<Q", rsdp, 24)[0])
    tables = {"XSDT": xsdt}
    for i in range((len(xsdt) - 36) // 8):
        table = at(struct.unpack_from("<Q", xsdt, 36 + 8 * i)[0])
        tables[table[:4].decode()] = table
    fadt = tables["FACP"]
    dsdt_at = struct.unpack_from("<Q", fadt, 140)[0]
    assert struct.unpack_from("<I", fadt, 40)[0] == dsdt_at
    tables["DSDT"] = at(dsdt_at)
    for name, table in tables.items():
        assert sum(table) & 0xFF == 0, name
    facs_at = struct.unpack_from("<I", fadt, 36)[0]
    assert facs_at % 64 == 0
    tables["FACS"] = at(facs_at)
    return tables


def disassemble(iasl: str, directory: Path, name: str, table: bytes) -> str:
    file = directory / f"{name.lower()}.aml"
    file.write_bytes(table)
    done = subprocess.run(
        [iasl, "-d", file], cwd=directory, capture_output=True, text=True, check=False
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert not re.search(r"error|warning|invalid", output, re.I), output
    return file.with_suffix(".dsl").read_text()


@pytest.mark.parametrize("name", ["FACP", "APIC", "DSDT", "FACS", "XSDT"])
def test_iasl_reads_every_table(iasl: str, placed: Placed, tmp_path: Path, name: str) -> None:
    text = disassemble(iasl, tmp_path, name, read_tables(placed)[name])
    if name != "DSDT":
        assert "Invalid" not in text
        assert "Unknown" not in text


def test_dsdt_compiles_to_itself(iasl: str, placed: Placed, tmp_path: Path) -> None:
    dsdt = read_tables(placed)["DSDT"]
    disassemble(iasl, tmp_path, "DSDT", dsdt)
    done = subprocess.run(
        [iasl, "-p", "again", "dsdt.dsl"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "0 Errors, 0 Warnings" in done.stdout, done.stdout
    again = (tmp_path / "again.aml").read_bytes()
    # iasl gives resource templates their checksums, where we leave 0 ("treat as valid").
    without = re.sub(rb"\x79.", b"\x79\0", again[36:], flags=re.S)
    assert without == dsdt[36:]


def test_devices_and_sleep_state(iasl: str, placed: Placed, tmp_path: Path) -> None:
    text = disassemble(iasl, tmp_path, "DSDT", read_tables(placed)["DSDT"])
    assert "PNP0501" in text
    assert "PNP0B00" in text
    assert re.search(r"Name \(\\?_S5", text)
    assert re.findall(r"0x(FEB0[0-9A-F]{4}),\s+// Address Base", text) == [
        "FEB00000",
        "FEB01000",
        "FEB02000",
    ]
    assert re.findall(r"Interrupt \(ResourceConsumer, Edge, ActiveHigh, Exclusive", text)
    assert text.count("0x03F8") == 2


def test_fadt_fields(placed: Placed) -> None:
    fadt = read_tables(placed)["FACP"]
    assert len(fadt) == 276
    assert struct.unpack_from("<H", fadt, 46)[0] == 9  # SCI_INT
    assert struct.unpack_from("<I", fadt, 48)[0] == 0  # no SMI command
    assert struct.unpack_from("<I", fadt, 56)[0] == 0x600
    assert struct.unpack_from("<I", fadt, 64)[0] == 0x604
    assert (fadt[88], fadt[89], fadt[91]) == (4, 2, 0)
    flags = struct.unpack_from("<I", fadt, 112)[0]
    assert flags & 1 << 4 == 0  # the power button is fixed hardware
    assert flags & 1 << 10  # there is a reset register
    assert flags & 1 << 20 == 0  # not hardware-reduced
    assert fadt[116:128] == struct.pack("<BBBBQ", 1, 8, 0, 1, 0xCF9)
    assert fadt[128] == 6
    boot = struct.unpack_from("<H", fadt, 109)[0]
    assert boot & 2 == 0  # no 8042 to probe
    assert fadt[148:160] == struct.pack("<BBBBQ", 1, 32, 0, 3, 0x600)
    assert fadt[172:184] == struct.pack("<BBBBQ", 1, 16, 0, 2, 0x604)


def test_madt_names_every_processor(placed: Placed) -> None:
    madt = read_tables(placed)["APIC"]
    entries, at = [], 44
    while at < len(madt):
        entries.append(madt[at : at + madt[at + 1]])
        at += madt[at + 1]
    assert [entry[3] for entry in entries if entry[0] == 0] == [0, 1, 2]
    assert all(entry[4] & 1 for entry in entries if entry[0] == 0)
    (ioapic,) = [entry for entry in entries if entry[0] == 1]
    assert struct.unpack_from("<I", ioapic, 4)[0] == 0xFEC00000
    (sci,) = [entry for entry in entries if entry[0] == 2]
    assert struct.unpack("<BBBBIH", sci) == (2, 10, 0, 9, 9, 0x0D)


@pytest.mark.parametrize(
    ("encoded", "asl"),
    [
        (aml.name("AAAA", aml.integer(0)), "Name (AAAA, Zero)"),
        (aml.name("AAAA", aml.integer(1)), "Name (AAAA, One)"),
        (aml.name("AAAA", aml.integer(0xFF)), "Name (AAAA, 0xFF)"),
        (aml.name("AAAA", aml.integer(0x1234)), "Name (AAAA, 0x1234)"),
        (aml.name("AAAA", aml.integer(0x12345678)), "Name (AAAA, 0x12345678)"),
        (aml.name("AAAA", aml.integer(1 << 40)), "Name (AAAA, 0x10000000000)"),
        (aml.name("AAAA", aml.string("text")), 'Name (AAAA, "text")'),
        (aml.name("AAAA", aml.eisa_id("PNP0A03")), 'Name (AAAA, EisaId ("PNP0A03"))'),
        (aml.name("AAAA", aml.buffer(b"\1\2\3")), "Name (AAAA, Buffer () {1, 2, 3})"),
        (
            aml.name("AAAA", aml.package(aml.integer(5), aml.string("x"))),
            'Name (AAAA, Package () {5, "x"})',
        ),
        (
            aml.scope("\\_SB", aml.device("DEV0", aml.name("_ADR", aml.integer(3)))),
            "Scope (\\_SB) {Device (DEV0) {Name (_ADR, 3)}}",
        ),
        (
            aml.scope("\\_SB", aml.name("BIG", aml.buffer(bytes(range(1, 256)) * 20))),
            "Scope (\\_SB) {Name (BIG, Buffer () {"
            + ", ".join(map(str, bytes(range(1, 256)) * 20))
            + "})}",
        ),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_encoder_agrees_with_the_compiler(
    iasl: str, tmp_path: Path, encoded: bytes, asl: str
) -> None:
    source = tmp_path / "t.dsl"
    source.write_text(f'DefinitionBlock ("", "DSDT", 2, "KVMISH", "TEST", 1) {{ {asl} }}\n')
    done = subprocess.run(
        [iasl, "-oa", "t.dsl"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "t.aml").read_bytes()[36:] == encoded


@pytest.mark.parametrize("body", [0, 62, 63, 64, 4092, 4093, 4094, 1 << 16, 1 << 20])
def test_package_length_counts_itself(body: int) -> None:
    encoded = aml.pkg_length(body)
    lead = encoded[0]
    low = lead & 0x3F if lead < 0x40 else lead & 0x0F
    value = low | int.from_bytes(encoded[1:], "little") << 4
    assert value == body + len(encoded)
    assert len(encoded) == (lead >> 6) + 1
