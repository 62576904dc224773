"""The structs of libvirt's remote protocol that we use: arguments, results, events.

Only the order and the types of the fields travel. What several procedures share stands once: a
domain and flags, one number, one string.
"""

from __future__ import annotations

from typing import Annotated

from libvirtish.rpc.xdr import (
    F64,
    I32,
    I64,
    STRING,
    U32,
    U64,
    Characters,
    Int,
    Max,
    OptStr,
    Str,
    Tagged,
    UHyper,
    UInt,
    Uuid,
    struct,
)

DOMAIN_LIST_MAX = 16384
PARAMS_MAX = 4096


@struct
class Domain:
    """Names a domain; id is -1 while it is off."""

    name: Str
    uuid: Uuid
    id: Int


@struct
class Network:
    """Names a network; here only because an error may name one."""

    name: Str
    uuid: Uuid


@struct
class Error:
    """What a reply with status 1 carries: virError."""

    code: Int
    domain: Int
    message: OptStr
    level: Int
    dom: Domain | None
    str1: OptStr
    str2: OptStr
    str3: OptStr
    int1: Int
    int2: Int
    net: Network | None


# -- shared shapes ------------------------------------------------------------------------------


@struct
class OneInt:
    """A number, signed, 32 bits."""

    value: Int


@struct
class OneUInt:
    """A number, unsigned, 32 bits: most often flags."""

    value: UInt


@struct
class OneUHyper:
    """A number, unsigned, 64 bits."""

    value: UHyper


@struct
class OneStr:
    """A string."""

    value: Str


@struct
class OneOptStr:
    """A string or none."""

    value: OptStr


@struct
class Strings:
    """A list of strings, and their number once more where a reply has it."""

    values: Annotated[list[Str], Max(DOMAIN_LIST_MAX)]


@struct
class Ints:
    """A list of numbers."""

    values: Annotated[list[Int], Max(DOMAIN_LIST_MAX)]


@struct
class OneUuid:
    """A UUID."""

    uuid: Uuid


@struct
class OneDomain:
    """A domain."""

    dom: Domain


@struct
class DomainFlags:
    """A domain and flags."""

    dom: Domain
    flags: UInt


@struct
class DomainInt:
    """A domain and a number."""

    dom: Domain
    value: Int


@struct
class StrFlags:
    """A string (most often XML) and flags."""

    value: Str
    flags: UInt


# -- the connection and the node ----------------------------------------------------------------


@struct
class OpenArgs:
    """connect_open: the URI as the client sees it."""

    name: OptStr
    flags: UInt


@struct
class NodeInfo:
    """node_get_info: memory in KiB."""

    model: Annotated[str, Characters(32)]
    memory: UHyper
    cpus: Int
    mhz: Int
    nodes: Int
    sockets: Int
    cores: Int
    threads: Int


@struct
class DomainCapabilitiesArgs:
    """connect_get_domain_capabilities: what a domain of that kind could have."""

    emulator: OptStr
    arch: OptStr
    machine: OptStr
    virttype: OptStr
    flags: UInt


@struct
class ListDomainsArgs:
    """connect_list_all_domains: need_results 0 asks for the number alone."""

    need_results: Int
    flags: UInt


@struct
class ListDomainsRet:
    """The domains and their number."""

    domains: Annotated[list[Domain], Max(DOMAIN_LIST_MAX)]
    count: UInt


@struct
class NoItems:
    """A list of whatever, with nothing in it, and the number once more."""

    items: UInt
    count: UInt


@struct
class ListOfDomainArgs:
    """domain_list_all_snapshots, ..._checkpoints: what belongs to a domain."""

    dom: Domain
    need_results: Int
    flags: UInt


# -- domains ------------------------------------------------------------------------------------


@struct
class DomainInfo:
    """domain_get_info: memory in KiB, time in ns. The small C types travel as words."""

    state: UInt
    max_memory: UHyper
    memory: UHyper
    vcpus: UInt
    cpu_time: UHyper


@struct
class DomainState:
    """domain_get_state."""

    state: Int
    reason: Int


@struct
class ControlInfo:
    """domain_get_control_info: state, details, and since when, in ms."""

    state: UInt
    details: UInt
    since_ms: UHyper


@struct
class OpenConsoleArgs:
    """domain_open_console: a stream on a console; without a name, the first."""

    dom: Domain
    device: OptStr
    flags: UInt


@struct
class Messages:
    """domain_get_messages."""

    messages: Annotated[list[Str], Max(DOMAIN_LIST_MAX)]


TypedValue = Annotated[
    tuple[int, object],
    Tagged({1: I32, 2: U32, 3: I64, 4: U64, 5: F64, 6: I32, 7: STRING}),
]
PARAM_INT, PARAM_UINT, PARAM_LLONG, PARAM_ULLONG, PARAM_DOUBLE, PARAM_BOOLEAN, PARAM_STRING = range(
    1, 8
)


@struct
class TypedParam:
    """A named value, with one of seven types."""

    field: Str
    value: TypedValue


@struct
class DomainStats:
    """One domain's row of connect_get_all_domain_stats."""

    dom: Domain
    params: Annotated[list[TypedParam], Max(PARAMS_MAX)]


@struct
class AllStatsArgs:
    """connect_get_all_domain_stats: no domains means all of them."""

    domains: Annotated[list[Domain], Max(DOMAIN_LIST_MAX)]
    stats: UInt
    flags: UInt


@struct
class AllStatsRet:
    """The rows."""

    rows: Annotated[list[DomainStats], Max(DOMAIN_LIST_MAX)]


@struct
class MemoryStatsArgs:
    """domain_memory_stats: at most so many."""

    dom: Domain
    limit: UInt
    flags: UInt


@struct
class MemoryStat:
    """A tag of virDomainMemoryStatTags, and KiB."""

    tag: Int
    value: UHyper


@struct
class MemoryStats:
    """domain_memory_stats."""

    stats: Annotated[list[MemoryStat], Max(1024)]


@struct
class RenameArgs:
    """domain_rename."""

    dom: Domain
    new_name: OptStr
    flags: UInt


@struct
class MonitorCommandArgs:
    """The qemu program's domain_monitor_command: a QMP command, as JSON."""

    dom: Domain
    command: Str
    flags: UInt


# -- events -------------------------------------------------------------------------------------


@struct
class RegisterArgs:
    """connect_domain_event_callback_register_any: of one domain, or of all."""

    event: Int
    dom: Domain | None


@struct
class LifecycleEvent:
    """domain_event_lifecycle, the older way."""

    dom: Domain
    event: Int
    detail: Int


@struct
class CallbackLifecycleEvent:
    """domain_event_callback_lifecycle."""

    callback: Int
    message: LifecycleEvent


@struct
class RebootEvent:
    """domain_event_reboot, the older way."""

    dom: Domain


@struct
class CallbackRebootEvent:
    """domain_event_callback_reboot."""

    callback: Int
    message: RebootEvent


@struct
class ClosedEvent:
    """connect_event_connection_closed."""

    reason: Int
