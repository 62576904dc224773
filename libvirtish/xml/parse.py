"""Reads XML of strangers: no entities, no network, bounded size; refusals name their place."""

from __future__ import annotations

import re

from lxml import etree

from libvirtish.errors import Code, VirError

TEXT_MAX_BYTES = 1 << 20
_DTD = re.compile(r"<!\s*(DOCTYPE|ENTITY)", re.IGNORECASE)


class XmlRefusalError(VirError):
    """Says what is wrong with an element, where it is, and what to do."""

    def __init__(
        self, element: etree._Element, what: str, remedy: str, code: Code = Code.XML_ERROR
    ) -> None:
        """`element`: the one at fault, or the one that lacks something."""
        super().__init__(code, f"{place(element)}: {what}; {remedy}")


def place(element: etree._Element) -> str:
    """Return `line N, /domain/os/kernel`."""
    return f"line {element.sourceline or 1}, {element.getroottree().getpath(element)}"


def parse(text: str, root_tag: str) -> etree._Element:
    """Parse a document with this root. :raise VirError: if it is not well-formed, or harmful."""
    raw = text.encode()
    if len(raw) > TEXT_MAX_BYTES:
        raise VirError(
            Code.XML_ERROR, f"{len(raw)} bytes of XML; {TEXT_MAX_BYTES} are taken, shorten it"
        )
    if found := _DTD.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise VirError(
            Code.XML_ERROR, f"line {line}: document types and entities are not taken; remove them"
        )
    parser = etree.XMLParser(
        encoding="utf-8",  # whatever a declaration says: the wire carries UTF-8
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )
    try:
        root = etree.fromstring(raw, parser)
    except etree.XMLSyntaxError as error:
        line, column = error.position
        raise VirError(
            Code.XML_DETAIL,
            f"({root_tag}_definition):{line}: column {column}: {error.msg}; mend the XML there",
        ) from error
    if root.tag != root_tag:
        raise XmlRefusalError(root, f"is not <{root_tag}>", f"give a <{root_tag}> document")
    return root


def text_of(element: etree._Element, path: str) -> str | None:
    """Return the stripped text of a child, or None if there is none or it is empty."""
    found = element.find(path)
    text = found.text.strip() if found is not None and found.text else ""
    return text or None


def serialize(root: etree._Element) -> str:
    """Return the document, indented by two, as libvirt writes it."""
    etree.indent(root, space="  ")
    return etree.tostring(root, encoding="unicode", pretty_print=True)
