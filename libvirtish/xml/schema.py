"""libvirt's own schema, where the host has it: for clients that ask for validation."""

from __future__ import annotations

import functools
from pathlib import Path

from lxml import etree

from libvirtish.errors import Code, VirError
from libvirtish.xml.parse import parse

DOMAIN_RNG = Path("/usr/share/libvirt/schemas/domain.rng")  # of Debian's libvirt0


@functools.cache
def _schema() -> etree.RelaxNG:
    return etree.RelaxNG(etree.parse(str(DOMAIN_RNG)))


def validate_domain(text: str) -> None:
    """:raise VirError: if the document is not valid, or there is no schema to say so."""
    root = parse(text, "domain")
    if not DOMAIN_RNG.is_file():
        raise VirError(
            Code.ARGUMENT_UNSUPPORTED,
            f"validation: there is no {DOMAIN_RNG}; install libvirt0, or define without --validate",
        )
    schema = _schema()
    if not schema.validate(root):
        # Its messages are vague, and only some have a place.
        placed = [error for error in schema.error_log if error.line]
        said = "; ".join(f"line {error.line}, {error.path}: {error.message}" for error in placed)
        raise VirError(
            Code.XML_INVALID_SCHEMA, f"XML document failed to validate against schema: {said}"
        )
