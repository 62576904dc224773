"""An encoder for the part of AML that our DSDTs need (ACPI 6.4, chapter 20). Every function
returns bytes.
"""

from __future__ import annotations

import struct


def name_seg(name: str) -> bytes:
    """A name of at most four characters, padded with underscores."""
    if not 1 <= len(name) <= 4 or not name.isascii():
        raise ValueError(f"AML name {name!r}")
    return name.ljust(4, "_").encode("ascii")


def name_string(path: str) -> bytes:
    """A path such as `_HID`, `\\_SB` or `\\_SB.COM1` (20.2.2)."""
    root = b"\\" if path.startswith("\\") else b""
    segments = [name_seg(part) for part in path.lstrip("\\").split(".")]
    if len(segments) == 1:
        return root + segments[0]
    if len(segments) == 2:
        return root + b"\x2e" + b"".join(segments)
    return root + b"\x2f" + bytes((len(segments),)) + b"".join(segments)


def pkg_length(body: int) -> bytes:
    """Encode the length of a package whose body has `body` bytes; the field counts itself
    (20.2.4).
    """
    if body + 1 < 0x40:
        return bytes((body + 1,))
    for extra in (1, 2, 3):
        total = body + 1 + extra
        if total < 1 << 4 + 8 * extra:
            low = bytes((extra << 6 | total & 0xF,))
            return low + (total >> 4).to_bytes(extra, "little")
    raise ValueError(f"AML package of {body} bytes")


def integer(value: int) -> bytes:
    """The shortest constant (20.2.3)."""
    if value in (0, 1):
        return bytes((value,))
    for prefix, size in ((0x0A, 1), (0x0B, 2), (0x0C, 4), (0x0E, 8)):
        if value < 1 << 8 * size:
            return bytes((prefix,)) + value.to_bytes(size, "little")
    raise ValueError(f"AML integer {value:#x}")


def string(text: str) -> bytes:
    """A NUL-terminated string."""
    return b"\x0d" + text.encode("ascii") + b"\0"


def eisa_id(text: str) -> bytes:
    """A compressed plug-and-play id such as PNP0501, as an integer (19.3.4)."""
    vendor = [ord(c) - 0x40 for c in text[:3]]
    number = vendor[0] << 26 | vendor[1] << 21 | vendor[2] << 16 | int(text[3:], 16)
    return b"\x0c" + number.to_bytes(4, "big")


def package(*elements: bytes) -> bytes:
    """Package () { ... }."""
    body = bytes((len(elements),)) + b"".join(elements)
    return b"\x12" + pkg_length(len(body)) + body


def name(path: str, value: bytes) -> bytes:
    """Name (path, value)."""
    return b"\x08" + name_string(path) + value


def scope(path: str, *terms: bytes) -> bytes:
    """Scope (path) { ... }."""
    body = name_string(path) + b"".join(terms)
    return b"\x10" + pkg_length(len(body)) + body


def device(path: str, *terms: bytes) -> bytes:
    """Device (path) { ... }."""
    body = name_string(path) + b"".join(terms)
    return b"\x5b\x82" + pkg_length(len(body)) + body


def buffer(data: bytes) -> bytes:
    """Buffer () { ... }."""
    body = integer(len(data)) + data
    return b"\x11" + pkg_length(len(body)) + body


def resource_template(*descriptors: bytes) -> bytes:
    """ResourceTemplate () { ... }, with the end tag (checksum 0: treated as valid, 6.4.2.9)."""
    return buffer(b"".join(descriptors) + b"\x79\x00")


def io_port(base: int, size: int) -> bytes:
    """IO (Decode16, base, base, 1, size), 6.4.2.5."""
    return struct.pack("<BBHHBB", 0x47, 0x01, base, base, 1, size)


def irq_no_flags(irq: int) -> bytes:
    """IRQNoFlags () { irq }: an ISA interrupt, edge, active high, exclusive (6.4.2.1)."""
    return struct.pack("<BH", 0x22, 1 << irq)


def interrupt_edge(gsi: int) -> bytes:
    """Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive) { gsi }, 6.4.3.6."""
    return struct.pack("<BHBBI", 0x89, 6, 0x03, 1, gsi)


def memory32_fixed(base: int, size: int) -> bytes:
    """Memory32Fixed (ReadWrite, base, size), 6.4.3.4."""
    return struct.pack("<BHBII", 0x86, 9, 1, base, size)
