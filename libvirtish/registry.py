"""The domains of a daemon: found, defined, renamed, let go; and found again at its start."""

from __future__ import annotations

import asyncio
import copy
import logging
import uuid as uuids

from lxml import etree

from libvirtish import states as s
from libvirtish.domain import Domain, Surroundings
from libvirtish.errors import Code, VirError
from libvirtish.record import Record, RecordError, boot_id
from libvirtish.rpc import types as t
from libvirtish.vmm import Vmm
from libvirtish.xml.domain import Definition, check_name, parse_domain
from libvirtish.xml.parse import parse

log = logging.getLogger("libvirtishd")


class Registry:
    """All domains, and the one place where they come and go."""

    def __init__(self, around: Surroundings) -> None:
        """Begin empty; load() fills it."""
        self._around = around
        self._domains: dict[uuids.UUID, Domain] = {}
        self._last_id = 0
        self._changing = asyncio.Lock()  # which domains there are

    # -- finding ------------------------------------------------------------------------------

    def all(self) -> list[Domain]:
        """Return all domains."""
        return list(self._domains.values())

    def by_name(self, name: str) -> Domain:
        """Find by name. :raise VirError: NO_DOMAIN."""
        for domain in self._domains.values():
            if domain.name == name:
                return domain
        raise VirError(Code.NO_DOMAIN, f"no domain with matching name '{name}'")

    def by_uuid(self, raw: bytes) -> Domain:
        """Find by UUID. :raise VirError: NO_DOMAIN."""
        domain = self._domains.get(uuids.UUID(bytes=raw))
        if domain is None:
            message = f"no domain with matching uuid '{uuids.UUID(bytes=raw)}'"
            raise VirError(Code.NO_DOMAIN, message)
        return domain

    def by_id(self, number: int) -> Domain:
        """Find a running domain by its id. :raise VirError: NO_DOMAIN."""
        for domain in self._domains.values():
            if domain.active and domain.id == number:
                return domain
        raise VirError(Code.NO_DOMAIN, f"no domain with matching id '{number}'")

    def of(self, ref: t.Domain) -> Domain:
        """Find what a client names. :raise VirError: NO_DOMAIN."""
        return self.by_uuid(ref.uuid)

    def next_id(self) -> int:
        """Return an id that no domain had while this daemon runs."""
        self._last_id += 1
        return self._last_id

    # -- coming and going -----------------------------------------------------------------------

    def _tell(self, domain: Domain, event: s.Event, detail: int) -> None:
        self._around.events.lifecycle(domain.ref, event, detail)

    def _add(self, definition: Definition, persistent: bool) -> Domain:
        domain = Domain(self._around, definition, persistent)
        domain.on_stopped = self._stopped  # type: ignore[method-assign]
        self._domains[definition.uuid] = domain
        return domain

    def _stopped(self, domain: Domain) -> None:
        if not domain.persistent:
            self._domains.pop(domain.definition.uuid, None)

    def _adopt_uuid(self, definition: Definition, xml: str) -> Definition:
        """A definition without a UUID, whose name is known, means the domain of that name."""
        if parse(xml, "domain").find("uuid") is not None:
            return definition
        for domain in self._domains.values():
            if domain.name == definition.name:
                tree = copy.deepcopy(definition.tree)
                element = tree.find("uuid")
                assert element is not None  # noqa: S101 - the parser put it there
                element.text = str(domain.definition.uuid)
                return parse_domain(etree.tostring(tree, encoding="unicode"))
        return definition

    def _conflict(self, definition: Definition) -> None:
        """:raise VirError: if the name or the UUID is another domain's."""
        for domain in self._domains.values():
            same_uuid = domain.definition.uuid == definition.uuid
            if domain.name == definition.name and not same_uuid:
                raise VirError(
                    Code.OPERATION_FAILED,
                    f"domain '{domain.name}' already exists with uuid {domain.definition.uuid};"
                    " give that <uuid> to redefine it, or choose another <name>",
                )
            if same_uuid and domain.name != definition.name:
                raise VirError(
                    Code.OPERATION_FAILED,
                    f"domain '{domain.name}' is already defined with uuid {definition.uuid};"
                    " remove <uuid> to get a new one, or rename the domain (domrename)",
                )

    async def define(self, xml: str) -> Domain:
        """Define a domain, or define it anew. :raise VirError: if it is refused."""
        definition = parse_domain(xml)
        async with self._changing:
            definition = self._adopt_uuid(definition, xml)
            self._conflict(definition)
            for note in definition.notes:
                log.warning("domain %s: %s", definition.name, note)
            await asyncio.to_thread(self._around.store.save, definition.name, definition.xml())
            domain = self._domains.get(definition.uuid)
            if domain is None:
                domain = self._add(definition, persistent=True)
                self._tell(domain, s.Event.DEFINED, s.DEFINED_ADDED)
            else:
                domain.definition, domain.persistent = definition, True
                self._tell(domain, s.Event.DEFINED, s.DEFINED_UPDATED)
            return domain

    async def create(self, xml: str, paused: bool) -> Domain:
        """Start a domain that is gone when it stops. :raise VirError: if it is refused."""
        definition = parse_domain(xml)
        async with self._changing:
            definition = self._adopt_uuid(definition, xml)
            self._conflict(definition)
            known = self._domains.get(definition.uuid)
            if known is not None and known.active:
                raise VirError(Code.OPERATION_INVALID, f"domain '{known.name}' is already running")
            domain = known or self._add(definition, persistent=False)
            await domain.lock.acquire()
        try:
            await domain.start(self.next_id(), paused, definition)
        except BaseException:
            if not domain.active and not domain.persistent:
                self._domains.pop(definition.uuid, None)
            raise
        finally:
            domain.lock.release()
        return domain

    async def undefine(self, domain: Domain) -> None:
        """Take a definition away; a running domain runs on until it stops. :raise VirError:"""
        async with self._changing:
            if not domain.persistent:
                message = "cannot undefine transient domain"
                raise VirError(Code.OPERATION_INVALID, message)
            await asyncio.to_thread(self._around.store.remove, domain.name)
            domain.persistent = False
            self._tell(domain, s.Event.UNDEFINED, s.UNDEFINED_REMOVED)
            if not domain.active:
                self._domains.pop(domain.definition.uuid, None)

    async def set_autostart(self, domain: Domain, wanted: bool) -> None:
        """Say whether it starts with the daemon. :raise VirError: if it will not be there then."""
        async with self._changing:
            if not domain.persistent:
                raise VirError(Code.OPERATION_INVALID, "cannot set autostart for transient domain")
            await asyncio.to_thread(self._around.store.set_autostart, domain.name, wanted)

    async def rename(self, domain: Domain, name: str) -> None:
        """Give a domain that is off another name. :raise VirError:"""
        async with self._changing, domain.lock:
            if domain.active or not domain.persistent:
                raise VirError(Code.OPERATION_INVALID, "cannot rename active domain")
            if wrong := check_name(name):
                raise VirError(Code.INVALID_ARG, f"the name {wrong}; choose another")
            if any(each.name == name for each in self._domains.values()):
                message = f"domain with name '{name}' already exists"
                raise VirError(Code.OPERATION_INVALID, message)
            definition, autostart = domain.definition.renamed(name), domain.autostart
            store, old = self._around.store, domain.name
            # The new file first: a kill in between leaves two of one UUID, and load() takes one.
            await asyncio.to_thread(store.save, name, definition.xml())
            self._tell(domain, s.Event.UNDEFINED, s.UNDEFINED_RENAMED)
            await asyncio.to_thread(store.remove, old)
            await asyncio.to_thread(store.set_autostart, name, autostart)
            domain.definition = definition
            self._tell(domain, s.Event.DEFINED, s.DEFINED_RENAMED)

    # -- the daemon's start and end ---------------------------------------------------------------

    async def load(self) -> None:
        """Read the definitions, find what runs, and start what is to start with the daemon."""
        for name, xml in self._around.store.definitions():
            try:
                definition = parse_domain(xml)
                self._conflict(definition)
            except VirError as error:
                log.error("the definition of %s is left alone: %s", name, error)
                continue
            if definition.uuid in self._domains or definition.name != name:
                log.error("the definition of %s is left alone: it is of another name", name)
                continue
            self._add(definition, persistent=True)
        await asyncio.gather(*[self._find(name) for name in self._around.store.running()])

    async def _find(self, name: str) -> None:
        """Find a domain that an earlier daemon started."""
        store = self._around.store
        directory = store.run_directory(name)
        try:
            record = Record.read(directory)
        except RecordError as error:
            log.error("left alone: %s", error)
            return
        self._last_id = max(self._last_id, record.id)
        vmm = await Vmm.find(directory) if record.boot == boot_id() else None
        if vmm is None:
            log.warning("domain %s: stopped while no daemon ran", name)
            store.forget_run(name)
            return
        live = record.definition
        domain = self._domains.get(live.uuid) or self._add(live, persistent=False)
        await domain.find_again(vmm, record)

    async def autostart(self) -> None:
        """Start the domains that are marked."""
        for domain in self.all():
            if not domain.autostart or domain.active:
                continue
            try:
                async with domain.lock:
                    await domain.start(self.next_id(), paused=False)
            except VirError as error:
                log.error("autostart: %s", error)

    def close(self) -> None:
        """Let go of the processes, which run on."""
        for domain in self._domains.values():
            if domain.vmm is not None:
                domain.vmm.close()
