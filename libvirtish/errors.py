"""libvirt's errors: the codes that clients act on, and the words that belong to them."""

from __future__ import annotations

from enum import IntEnum

FROM_QEMU, FROM_RPC, FROM_STREAMS = 10, 7, 38  # virErrorDomain
LEVEL_ERROR = 2


class Code(IntEnum):
    """virErrorNumber, as far as used here."""

    INTERNAL_ERROR = 1
    NO_SUPPORT = 3
    INVALID_ARG = 8
    OPERATION_FAILED = 9
    XML_ERROR = 27
    XML_DETAIL = 35
    SYSTEM_ERROR = 38
    RPC = 39
    NO_DOMAIN = 42
    OPERATION_INVALID = 55
    CONFIG_UNSUPPORTED = 67
    ARGUMENT_UNSUPPORTED = 74
    XML_INVALID_SCHEMA = 92


PREFIX = {
    Code.INTERNAL_ERROR: "internal error",
    Code.NO_SUPPORT: "this function is not supported by the connection driver",
    Code.INVALID_ARG: "invalid argument",
    Code.OPERATION_FAILED: "operation failed",
    Code.XML_ERROR: "XML error",
    Code.NO_DOMAIN: "Domain not found",
    Code.OPERATION_INVALID: "Requested operation is not valid",
    Code.CONFIG_UNSUPPORTED: "unsupported configuration",
    Code.ARGUMENT_UNSUPPORTED: "argument unsupported",
}


class VirError(Exception):
    """An error for the client: a code, and a message that says what was wrong and what to do."""

    def __init__(self, code: Code, message: str, domain: int = FROM_QEMU) -> None:
        """`message` without the words that the code puts in front of it."""
        prefix = PREFIX.get(code)
        super().__init__(f"{prefix}: {message}" if prefix else message)
        self.code, self.domain = code, domain


class FrameError(Exception):
    """A frame after which the connection cannot go on."""
