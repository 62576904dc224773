"""The driver: a method for each procedure of the protocol, over the daemon's domains.

A method's name is its procedure's, its arguments are the client and the procedure's struct, and
what it raises as VirError is what the client gets.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable

from libvirtish import states as s
from libvirtish import statistics
from libvirtish.consoles import Console, open_console
from libvirtish.domain import Domain
from libvirtish.errors import Code, VirError
from libvirtish.events import OLD_WAY, Events
from libvirtish.registry import Registry
from libvirtish.rpc import types as t
from libvirtish.rpc.server import Client
from libvirtish.vmm import VmmError
from libvirtish.xml import host
from libvirtish.xml.domain import MAX_VCPUS
from libvirtish.xml.schema import validate_domain

LIB_VERSION = 9_000_000  # the interface that is served: libvirt 9.0.0
HYPERVISOR_VERSION = 1_000  # kvmish 0.1.0, as major * 1000000 + minor * 1000 + release
HYPERVISOR = "QEMU"  # what clients with qemu:/// URIs expect to hear

FEATURE_KEEPALIVE, FEATURE_EVENT_CALLBACK, FEATURE_CLOSE_CALLBACK = 10, 14, 15

# Flags, by the function they belong to.
XML_INACTIVE = 2
DEFINE_VALIDATE = 1
START_PAUSED, START_VALIDATE = 1, 16
DESTROY_GRACEFUL = 1
CONSOLE_FORCE = 1
AFFECT_LIVE, AFFECT_CONFIG, VCPU_MAXIMUM = 1, 2, 4

# virConnectListAllDomainsFlags: groups, of each of which a domain has exactly one.
_FILTERS: tuple[dict[int, Callable[[Domain], bool]], ...] = (
    {1: lambda d: d.active, 2: lambda d: not d.active},
    {4: lambda d: d.persistent, 8: lambda d: not d.persistent},
    {
        16: lambda d: d.state == s.State.RUNNING,
        32: lambda d: d.state == s.State.PAUSED,
        64: lambda d: d.state == s.State.SHUTOFF,
        128: lambda d: d.state not in (s.State.RUNNING, s.State.PAUSED, s.State.SHUTOFF),
    },
    {256: lambda d: False, 512: lambda d: True},  # a managed save
    {1024: lambda d: d.autostart, 2048: lambda d: not d.autostart},
    {4096: lambda d: False, 8192: lambda d: True},  # snapshots
    {16384: lambda d: False, 32768: lambda d: True},  # checkpoints
)


def _selected(domain: Domain, flags: int) -> bool:
    for group in _FILTERS:
        wanted = [test for bit, test in group.items() if flags & bit]
        if wanted and not any(test(domain) for test in wanted):
            return False
    return True


class ConnectionDriver:
    """Procedures about the connection, the host, and which domains there are."""

    def __init__(self, registry: Registry, events: Events, emulator: str) -> None:
        """`emulator`: the path that capabilities name as the VMM."""
        self.registry, self.events, self._emulator = registry, events, emulator

    async def auth_list(self, client: Client, args: None) -> t.Ints:
        """No authentication: the socket's permissions are it."""
        return t.Ints([0])

    async def connect_open(self, client: Client, args: t.OpenArgs) -> None:
        """Open, whatever path the URI has."""
        client.opened = True

    async def connect_close(self, client: Client, args: None) -> None:
        """Close: the client hangs up next."""

    async def connect_supports_feature(self, client: Client, args: t.OneInt) -> t.OneInt:
        """Say which extensions of the protocol there are."""
        if args.value == FEATURE_KEEPALIVE:
            client.wants_keepalive = True
        known = (FEATURE_KEEPALIVE, FEATURE_EVENT_CALLBACK, FEATURE_CLOSE_CALLBACK)
        return t.OneInt(int(args.value in known))

    async def connect_register_close_callback(self, client: Client, args: None) -> None:
        """The connection to ourselves never closes behind the client's back."""

    async def connect_unregister_close_callback(self, client: Client, args: None) -> None:
        """See connect_register_close_callback."""

    async def connect_get_type(self, client: Client, args: None) -> t.OneStr:
        """Name the hypervisor."""
        return t.OneStr(HYPERVISOR)

    async def connect_get_version(self, client: Client, args: None) -> t.OneUHyper:
        """Return the hypervisor's version."""
        return t.OneUHyper(HYPERVISOR_VERSION)

    async def connect_get_lib_version(self, client: Client, args: None) -> t.OneUHyper:
        """Return the version of libvirt that is spoken."""
        return t.OneUHyper(LIB_VERSION)

    async def connect_get_hostname(self, client: Client, args: None) -> t.OneStr:
        """Return the host's name."""
        return t.OneStr(socket.gethostname())

    async def connect_get_uri(self, client: Client, args: None) -> t.OneStr:
        """Return the canonical URI."""
        return t.OneStr("qemu:///system")

    async def connect_is_secure(self, client: Client, args: None) -> t.OneInt:
        """A unix socket is."""
        return t.OneInt(1)

    async def connect_get_max_vcpus(self, client: Client, args: t.OneOptStr) -> t.OneInt:
        """Return how many processors a domain may have."""
        return t.OneInt(MAX_VCPUS)

    async def node_get_info(self, client: Client, args: None) -> t.NodeInfo:
        """Describe the host."""
        return host.node_info()

    async def connect_get_capabilities(self, client: Client, args: None) -> t.OneStr:
        """Describe host and guests."""
        return t.OneStr(host.capabilities(self._emulator))

    async def connect_get_domain_capabilities(
        self, client: Client, args: t.DomainCapabilitiesArgs
    ) -> t.OneStr:
        """Describe what a domain can have."""
        virt_type = args.virttype or "kvm"
        if virt_type not in ("kvm", "qemu") or args.arch not in (None, host.ARCH):
            message = f"{virt_type} on {args.arch or host.ARCH}; use kvm or qemu on {host.ARCH}"
            raise VirError(Code.INVALID_ARG, message)
        return t.OneStr(host.domain_capabilities(self._emulator, virt_type))

    # -- events -----------------------------------------------------------------------------------

    async def connect_domain_event_register(self, client: Client, args: None) -> t.OneInt:
        """Subscribe to lifecycle events, the oldest way."""
        self.events.subscribe(client, s.EVENT_LIFECYCLE, old_way=True)
        return t.OneInt(1)

    async def connect_domain_event_deregister(self, client: Client, args: None) -> t.OneInt:
        """End it."""
        self.events.unsubscribe(client, OLD_WAY, s.EVENT_LIFECYCLE)
        return t.OneInt(0)

    async def connect_domain_event_register_any(self, client: Client, args: t.OneInt) -> None:
        """Subscribe to one kind of event, the old way."""
        self.events.subscribe(client, args.value, old_way=True)

    async def connect_domain_event_deregister_any(self, client: Client, args: t.OneInt) -> None:
        """End it."""
        self.events.unsubscribe(client, OLD_WAY, args.value)

    async def connect_domain_event_callback_register_any(
        self, client: Client, args: t.RegisterArgs
    ) -> t.OneInt:
        """Subscribe to one kind of event, of one domain or all."""
        uuid = None
        if args.dom is not None:
            uuid = self.registry.of(args.dom).definition.uuid.bytes
        return t.OneInt(self.events.subscribe(client, args.event, uuid))

    async def connect_domain_event_callback_deregister_any(
        self, client: Client, args: t.OneInt
    ) -> None:
        """End it."""
        self.events.unsubscribe(client, args.value)

    # -- which domains there are ------------------------------------------------------------------

    async def connect_list_all_domains(
        self, client: Client, args: t.ListDomainsArgs
    ) -> t.ListDomainsRet:
        """List the domains that the flags select."""
        found = [each.ref for each in self.registry.all() if _selected(each, args.flags)]
        return t.ListDomainsRet(found if args.need_results else [], len(found))

    async def list_nothing(self, client: Client, args: t.ListDomainsArgs) -> t.NoItems:
        """There are none: no networks, no storage pools, ..."""
        return t.NoItems(0, 0)

    async def list_nothing_of(self, client: Client, args: t.ListOfDomainArgs) -> t.NoItems:
        """A domain has none: no snapshots, no checkpoints."""
        self.registry.of(args.dom)
        return t.NoItems(0, 0)

    async def connect_num_of_domains(self, client: Client, args: None) -> t.OneInt:
        """Count the running ones."""
        return t.OneInt(sum(each.active for each in self.registry.all()))

    async def connect_list_domains(self, client: Client, args: t.OneInt) -> t.Ints:
        """List the ids of the running ones."""
        ids = [each.id for each in self.registry.all() if each.active]
        return t.Ints(ids[: max(0, args.value)])

    async def connect_num_of_defined_domains(self, client: Client, args: None) -> t.OneInt:
        """Count those that are off."""
        return t.OneInt(sum(not each.active for each in self.registry.all()))

    async def connect_list_defined_domains(self, client: Client, args: t.OneInt) -> t.Strings:
        """List the names of those that are off."""
        names = [each.name for each in self.registry.all() if not each.active]
        return t.Strings(names[: max(0, args.value)])

    async def domain_lookup_by_name(self, client: Client, args: t.OneStr) -> t.OneDomain:
        """Find by name."""
        return t.OneDomain(self.registry.by_name(args.value).ref)

    async def domain_lookup_by_uuid(self, client: Client, args: t.OneUuid) -> t.OneDomain:
        """Find by UUID."""
        return t.OneDomain(self.registry.by_uuid(args.uuid).ref)

    async def domain_lookup_by_id(self, client: Client, args: t.OneInt) -> t.OneDomain:
        """Find by id."""
        return t.OneDomain(self.registry.by_id(args.value).ref)


class Driver(ConnectionDriver):
    """Procedures about one domain."""

    def __init__(self, registry: Registry, events: Events, emulator: str) -> None:
        """`emulator`: the path that capabilities name as the VMM."""
        super().__init__(registry, events, emulator)
        self._consoles: dict[str, Console] = {}  # terminal -> who has it

    # -- definitions ------------------------------------------------------------------------------

    async def domain_define_xml(self, client: Client, args: t.OneStr) -> t.OneDomain:
        """Define."""
        return t.OneDomain((await self.registry.define(args.value)).ref)

    async def domain_define_xml_flags(self, client: Client, args: t.StrFlags) -> t.OneDomain:
        """Define, perhaps only what libvirt's schema allows."""
        if args.flags & DEFINE_VALIDATE:
            await asyncio.to_thread(validate_domain, args.value)
        return t.OneDomain((await self.registry.define(args.value)).ref)

    async def domain_create_xml(self, client: Client, args: t.StrFlags) -> t.OneDomain:
        """Start a transient domain."""
        if args.flags & START_VALIDATE:
            await asyncio.to_thread(validate_domain, args.value)
        domain = await self.registry.create(args.value, bool(args.flags & START_PAUSED))
        return t.OneDomain(domain.ref)

    async def domain_undefine(self, client: Client, args: t.OneDomain) -> None:
        """Undefine."""
        await self.registry.undefine(self.registry.of(args.dom))

    async def domain_undefine_flags(self, client: Client, args: t.DomainFlags) -> None:
        """Undefine; the flags speak of things that no domain has."""
        await self.registry.undefine(self.registry.of(args.dom))

    async def domain_rename(self, client: Client, args: t.RenameArgs) -> t.OneInt:
        """Rename a domain that is off."""
        await self.registry.rename(self.registry.of(args.dom), args.new_name or "")
        return t.OneInt(0)

    async def domain_get_xml_desc(self, client: Client, args: t.DomainFlags) -> t.OneStr:
        """Return the XML."""
        return t.OneStr(self.registry.of(args.dom).xml(bool(args.flags & XML_INACTIVE)))

    async def domain_get_autostart(self, client: Client, args: t.OneDomain) -> t.OneInt:
        """Whether it starts with the daemon."""
        return t.OneInt(int(self.registry.of(args.dom).autostart))

    async def domain_set_autostart(self, client: Client, args: t.DomainInt) -> None:
        """Say so."""
        await self.registry.set_autostart(self.registry.of(args.dom), bool(args.value))

    # -- running ----------------------------------------------------------------------------------

    async def _start(self, ref: t.Domain, flags: int) -> Domain:
        domain = self.registry.of(ref)
        async with domain.lock:
            await domain.start(self.registry.next_id(), bool(flags & START_PAUSED))
        return domain

    async def domain_create(self, client: Client, args: t.OneDomain) -> None:
        """Start."""
        await self._start(args.dom, 0)

    async def domain_create_with_flags(self, client: Client, args: t.DomainFlags) -> t.OneDomain:
        """Start, perhaps paused."""
        return t.OneDomain((await self._start(args.dom, args.flags)).ref)

    async def domain_destroy(self, client: Client, args: t.OneDomain) -> None:
        """Pull the plug."""
        await self.domain_destroy_flags(client, t.DomainFlags(args.dom, 0))

    async def domain_destroy_flags(self, client: Client, args: t.DomainFlags) -> None:
        """Pull the plug, perhaps only if the process heeds SIGTERM."""
        domain = self.registry.of(args.dom)
        async with domain.lock:
            await domain.destroy(bool(args.flags & DESTROY_GRACEFUL))

    async def domain_suspend(self, client: Client, args: t.OneDomain) -> None:
        """Pause."""
        domain = self.registry.of(args.dom)
        async with domain.lock:
            await domain.suspend()

    async def domain_resume(self, client: Client, args: t.OneDomain) -> None:
        """Go on."""
        domain = self.registry.of(args.dom)
        async with domain.lock:
            await domain.resume()

    async def domain_shutdown(self, client: Client, args: t.OneDomain) -> None:
        """Press the power button."""
        await self.registry.of(args.dom).shutdown()

    async def domain_shutdown_flags(self, client: Client, args: t.DomainFlags) -> None:
        """Press the power button; other ways than ACPI are not there."""
        _only_acpi(args.flags)
        await self.registry.of(args.dom).shutdown()

    async def domain_reboot(self, client: Client, args: t.DomainFlags) -> None:
        """Press the power button, and start again when it is off."""
        _only_acpi(args.flags)
        await self.registry.of(args.dom).shutdown(reboot=True)

    async def domain_reset(self, client: Client, args: t.DomainFlags) -> None:
        """Press the reset button."""
        await self.registry.of(args.dom).execute("system_reset")

    async def domain_open_console(self, client: Client, args: t.OpenConsoleArgs) -> Console:
        """Open a console for a stream; one client at a time, the last with FORCE."""
        domain = self.registry.of(args.dom)
        domain.need_vmm()
        path = self._console_path(domain, args.device)
        holder = self._consoles.get(path)
        if holder is not None and holder.open:
            if not args.flags & CONSOLE_FORCE:
                message = "Active console session exists for this domain"
                raise VirError(Code.OPERATION_FAILED, message)
            holder.fail("another client took the console (--force)")
        try:
            console = self._consoles[path] = Console(open_console(path))
        except OSError as error:
            message = f"console {path}: {error.strerror}"
            raise VirError(Code.OPERATION_FAILED, message) from error
        return console

    @staticmethod
    def _console_path(domain: Domain, alias: str | None) -> str:
        consoles = domain.current.consoles
        chosen = [each for each in consoles if alias in (None, each.alias)]
        if not chosen:
            what = f"no console {alias!r}" if alias else "no console"
            names = ", ".join(each.alias for each in consoles) or "none; add <console type='pty'/>"
            raise VirError(Code.INTERNAL_ERROR, f"the domain has {what}; it has: {names}")
        path = domain.ttys.get(chosen[0].device)
        if path is None:
            message = f"character device {chosen[0].alias} is not using a PTY or a socket"
            raise VirError(Code.INTERNAL_ERROR, message)
        return path

    # -- what they are doing ----------------------------------------------------------------------

    async def domain_get_info(self, client: Client, args: t.OneDomain) -> t.DomainInfo:
        """Return state, memory, processors and time."""
        domain = self.registry.of(args.dom)
        definition = domain.current
        used = domain.vmm.cpu_time_ns() if domain.vmm else 0
        return t.DomainInfo(
            domain.state, definition.memory_kib, _memory_now(domain), definition.vcpus, used
        )

    async def domain_get_state(self, client: Client, args: t.DomainFlags) -> t.DomainState:
        """Return state and reason."""
        domain = self.registry.of(args.dom)
        return t.DomainState(domain.state, domain.reason)

    async def domain_get_control_info(self, client: Client, args: t.DomainFlags) -> t.ControlInfo:
        """Say whether the monitor is free: 0 ok, 2 occupied, 3 error (2: of the monitor)."""
        domain = self.registry.of(args.dom)
        if not domain.need_vmm().connected:
            return t.ControlInfo(3, 2, 0)
        return t.ControlInfo(2 if domain.lock.locked() else 0, 0, 0)

    async def domain_get_messages(self, client: Client, args: t.DomainFlags) -> t.Messages:
        """Return what the domain asks for and does not get."""
        return t.Messages(list(self.registry.of(args.dom).current.notes))

    async def domain_get_max_memory(self, client: Client, args: t.OneDomain) -> t.OneUHyper:
        """Return KiB."""
        return t.OneUHyper(self.registry.of(args.dom).current.memory_kib)

    async def domain_get_max_vcpus(self, client: Client, args: t.OneDomain) -> t.OneInt:
        """Return the number of processors: there is no hotplug."""
        return t.OneInt(self.registry.of(args.dom).current.vcpus)

    async def domain_get_vcpus_flags(self, client: Client, args: t.DomainFlags) -> t.OneInt:
        """Return the number of processors, live or defined."""
        domain = self.registry.of(args.dom)
        if args.flags & AFFECT_LIVE and not args.flags & VCPU_MAXIMUM:
            domain.need_vmm()
        definition = domain.definition if args.flags & AFFECT_CONFIG else domain.current
        return t.OneInt(definition.vcpus)

    async def domain_get_os_type(self, client: Client, args: t.OneDomain) -> t.OneStr:
        """Return hvm: there is no other."""
        self.registry.of(args.dom)
        return t.OneStr("hvm")

    async def domain_is_active(self, client: Client, args: t.OneDomain) -> t.OneInt:
        """Whether it runs."""
        return t.OneInt(int(self.registry.of(args.dom).active))

    async def domain_is_persistent(self, client: Client, args: t.OneDomain) -> t.OneInt:
        """Whether it stays when it stops."""
        return t.OneInt(int(self.registry.of(args.dom).persistent))

    async def domain_is_updated(self, client: Client, args: t.OneDomain) -> t.OneInt:
        """Whether it would start otherwise than it runs."""
        domain = self.registry.of(args.dom)
        return t.OneInt(int(domain.live is not None and domain.live is not domain.definition))

    async def domain_has_managed_save_image(self, client: Client, args: t.DomainFlags) -> t.OneInt:
        """No domain has one."""
        self.registry.of(args.dom)
        return t.OneInt(0)

    async def domain_snapshot_num(self, client: Client, args: t.DomainFlags) -> t.OneInt:
        """No domain has one."""
        self.registry.of(args.dom)
        return t.OneInt(0)

    async def domain_memory_stats(self, client: Client, args: t.MemoryStatsArgs) -> t.MemoryStats:
        """Return the memory of the guest, and of its process."""
        domain = self.registry.of(args.dom)
        vmm = domain.need_vmm()
        rows = [(6, _memory_now(domain)), (7, vmm.resident_kib())]  # actual balloon, rss
        return t.MemoryStats([t.MemoryStat(*row) for row in rows[: args.limit]])

    async def connect_get_all_domain_stats(
        self, client: Client, args: t.AllStatsArgs
    ) -> t.AllStatsRet:
        """Return the statistics of the domains that are named, or that the flags select."""
        if args.domains:
            chosen = [self.registry.of(each) for each in args.domains]
        else:
            chosen = [each for each in self.registry.all() if _selected(each, args.flags)]
        return t.AllStatsRet([statistics.row(domain, args.stats) for domain in chosen])

    async def domain_monitor_command(self, client: Client, args: t.MonitorCommandArgs) -> t.OneStr:
        """Pass a QMP command on."""
        domain = self.registry.of(args.dom)
        if args.flags & 1:
            raise VirError(Code.ARGUMENT_UNSUPPORTED, "there is no human monitor; write QMP")
        try:
            command = json.loads(args.command)
            name, arguments = command["execute"], command.get("arguments", {})
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            message = f'not a command: {error}; write {{"execute": "query-status"}}'
            raise VirError(Code.INVALID_ARG, message) from error
        if not isinstance(name, str) or not isinstance(arguments, dict):
            raise VirError(Code.INVALID_ARG, 'not a command; write {"execute": "query-status"}')
        try:
            answer: dict[str, object] = {"return": await domain.need_vmm().execute(name, arguments)}
        except VmmError as error:
            answer = {"error": {"class": "GenericError", "desc": str(error)}}
        return t.OneStr(json.dumps(answer))


def _memory_now(domain: Domain) -> int:
    """KiB; without a balloon it is all of it."""
    return domain.current.memory_kib if domain.active else domain.current.current_memory_kib


def _only_acpi(flags: int) -> None:
    if flags & ~1:
        raise VirError(Code.ARGUMENT_UNSUPPORTED, "only the ACPI power button is there (mode acpi)")
