"""The procedures of libvirt's remote protocol: number, name, what goes in and what comes out.

Server, client and tests read this one table. A procedure is served by the driver's method of its
name; `unserved.py` names real ones that clients call, so that "not supported" can say what is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from libvirtish.rpc import types as t

REMOTE_PROGRAM: Final = 0x20008086
QEMU_PROGRAM: Final = 0x20008087
KEEPALIVE_PROGRAM: Final = 0x6B656570
PROTOCOL_VERSION: Final = 1
KEEPALIVE_PING: Final = 1
KEEPALIVE_PONG: Final = 2
HIGHEST: Final = 453  # the last number that libvirt has given out; above it none is real


@dataclass(frozen=True)
class Procedure:
    """One procedure; `stream`: its reply is followed by a stream with its number and serial."""

    number: int
    name: str
    args: type | None = None
    ret: type | None = None
    stream: bool = False
    program: int = REMOTE_PROGRAM
    handler: str = ""  # the driver's method, if it is not of this name


def api_name(name: str) -> str:
    """Return domain_get_xml_desc as virDomainGetXMLDesc."""
    fixed = {"xml": "XML", "os": "OS", "uuid": "UUID", "id": "ID", "vcpus": "Vcpus"}
    return "vir" + "".join(fixed.get(word, word.capitalize()) for word in name.split("_"))


P = Procedure
REMOTE: tuple[Procedure, ...] = (
    # the connection
    P(1, "connect_open", t.OpenArgs),
    P(2, "connect_close"),
    P(3, "connect_get_type", None, t.OneStr),
    P(4, "connect_get_version", None, t.OneUHyper),
    P(5, "connect_get_max_vcpus", t.OneOptStr, t.OneInt),
    P(6, "node_get_info", None, t.NodeInfo),
    P(7, "connect_get_capabilities", None, t.OneStr),
    P(59, "connect_get_hostname", None, t.OneStr),
    P(60, "connect_supports_feature", t.OneInt, t.OneInt),
    P(66, "auth_list", None, t.Ints),
    P(105, "connect_domain_event_register", None, t.OneInt),
    P(106, "connect_domain_event_deregister", None, t.OneInt),
    P(110, "connect_get_uri", None, t.OneStr),
    P(149, "connect_is_secure", None, t.OneInt),
    P(157, "connect_get_lib_version", None, t.OneUHyper),
    P(167, "connect_domain_event_register_any", t.OneInt),
    P(168, "connect_domain_event_deregister_any", t.OneInt),
    P(316, "connect_domain_event_callback_register_any", t.RegisterArgs, t.OneInt),
    P(317, "connect_domain_event_callback_deregister_any", t.OneInt),
    P(342, "connect_get_domain_capabilities", t.DomainCapabilitiesArgs, t.OneStr),
    P(344, "connect_get_all_domain_stats", t.AllStatsArgs, t.AllStatsRet),
    P(360, "connect_register_close_callback"),
    P(361, "connect_unregister_close_callback"),
    # which domains there are
    P(21, "connect_list_defined_domains", t.OneInt, t.Strings),
    P(22, "domain_lookup_by_id", t.OneInt, t.OneDomain),
    P(23, "domain_lookup_by_name", t.OneStr, t.OneDomain),
    P(24, "domain_lookup_by_uuid", t.OneUuid, t.OneDomain),
    P(25, "connect_num_of_defined_domains", None, t.OneInt),
    P(37, "connect_list_domains", t.OneInt, t.Ints),
    P(51, "connect_num_of_domains", None, t.OneInt),
    P(273, "connect_list_all_domains", t.ListDomainsArgs, t.ListDomainsRet),
    # what there is none of
    P(281, "connect_list_all_storage_pools", t.ListDomainsArgs, t.NoItems, handler="list_nothing"),
    P(283, "connect_list_all_networks", t.ListDomainsArgs, t.NoItems, handler="list_nothing"),
    P(284, "connect_list_all_interfaces", t.ListDomainsArgs, t.NoItems, handler="list_nothing"),
    P(285, "connect_list_all_node_devices", t.ListDomainsArgs, t.NoItems, handler="list_nothing"),
    P(286, "connect_list_all_nwfilters", t.ListDomainsArgs, t.NoItems, handler="list_nothing"),
    P(287, "connect_list_all_secrets", t.ListDomainsArgs, t.NoItems, handler="list_nothing"),
    P(274, "domain_list_all_snapshots", t.ListOfDomainArgs, t.NoItems, handler="list_nothing_of"),
    P(413, "domain_list_all_checkpoints", t.ListOfDomainArgs, t.NoItems, handler="list_nothing_of"),
    # definitions
    P(10, "domain_create_xml", t.StrFlags, t.OneDomain),
    P(11, "domain_define_xml", t.OneStr, t.OneDomain),
    P(14, "domain_get_xml_desc", t.DomainFlags, t.OneStr),
    P(15, "domain_get_autostart", t.OneDomain, t.OneInt),
    P(29, "domain_set_autostart", t.DomainInt),
    P(35, "domain_undefine", t.OneDomain),
    P(231, "domain_undefine_flags", t.DomainFlags),
    P(350, "domain_define_xml_flags", t.StrFlags, t.OneDomain),
    P(358, "domain_rename", t.RenameArgs, t.OneInt),
    # running them
    P(9, "domain_create", t.OneDomain),
    P(12, "domain_destroy", t.OneDomain),
    P(27, "domain_reboot", t.DomainFlags),
    P(28, "domain_resume", t.OneDomain),
    P(33, "domain_shutdown", t.OneDomain),
    P(34, "domain_suspend", t.OneDomain),
    P(196, "domain_create_with_flags", t.DomainFlags, t.OneDomain),
    P(201, "domain_open_console", t.OpenConsoleArgs, None, stream=True),
    P(234, "domain_destroy_flags", t.DomainFlags),
    P(245, "domain_reset", t.DomainFlags),
    P(258, "domain_shutdown_flags", t.DomainFlags),
    # what they are doing
    P(16, "domain_get_info", t.OneDomain, t.DomainInfo),
    P(17, "domain_get_max_memory", t.OneDomain, t.OneUHyper),
    P(18, "domain_get_max_vcpus", t.OneDomain, t.OneInt),
    P(19, "domain_get_os_type", t.OneDomain, t.OneStr),
    P(150, "domain_is_active", t.OneDomain, t.OneInt),
    P(151, "domain_is_persistent", t.OneDomain, t.OneInt),
    P(159, "domain_memory_stats", t.MemoryStatsArgs, t.MemoryStats),
    P(183, "domain_has_managed_save_image", t.DomainFlags, t.OneInt),
    P(187, "domain_snapshot_num", t.DomainFlags, t.OneInt),
    P(200, "domain_get_vcpus_flags", t.DomainFlags, t.OneInt),
    P(202, "domain_is_updated", t.OneDomain, t.OneInt),
    P(212, "domain_get_state", t.DomainFlags, t.DomainState),
    P(229, "domain_get_control_info", t.DomainFlags, t.ControlInfo),
    P(426, "domain_get_messages", t.DomainFlags, t.Messages),
)
QEMU: tuple[Procedure, ...] = (
    P(1, "domain_monitor_command", t.MonitorCommandArgs, t.OneStr, program=QEMU_PROGRAM),
)
# What the server says by itself (type 2, serial 0).
EVENTS: tuple[Procedure, ...] = (
    P(107, "domain_event_lifecycle", t.LifecycleEvent),
    P(169, "domain_event_reboot", t.RebootEvent),
    P(318, "domain_event_callback_lifecycle", t.CallbackLifecycleEvent),
    P(319, "domain_event_callback_reboot", t.CallbackRebootEvent),
    P(362, "connect_event_connection_closed", t.ClosedEvent),
)

BY_NUMBER = {(each.program, each.number): each for each in (*REMOTE, *QEMU)}
BY_NAME = {each.name: each for each in (*REMOTE, *QEMU)}
EVENT_BY_NUMBER = {each.number: each for each in EVENTS}
EVENT_BY_NAME = {each.name: each for each in EVENTS}
