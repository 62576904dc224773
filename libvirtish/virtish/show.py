"""What the showing verbs show: each returns text as virsh prints it, and the same as data."""

from __future__ import annotations

import uuid
from collections.abc import Mapping

from lxml import etree

from libvirtish.rpc import types as t
from libvirtish.rpc.client import RemoteError
from libvirtish.virtish import words
from libvirtish.virtish.session import Session

Shown = tuple[str, object]


def _version(number: int) -> str:
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"


def version(session: Session, with_daemon: bool) -> Shown:
    """`version`: of the library that is spoken, and of what runs the domains."""
    library = _version(session.daemon.ask(t.OneUHyper, "connect_get_lib_version").value)
    kind = session.daemon.ask(t.OneStr, "connect_get_type").value
    running = _version(session.daemon.ask(t.OneUHyper, "connect_get_version").value)
    text = (
        f"Compiled against library: libvirt {library}\nUsing library: libvirt {library}\n"
        f"Using API: {kind} {library}\nRunning hypervisor: {kind} {running}\n"
    )
    if with_daemon:
        text += f"Running against daemon: {library}\n"
    return text, {"library": library, "hypervisor": kind, "version": running}


def node_info(session: Session) -> Shown:
    """`nodeinfo`."""
    info = session.daemon.ask(t.NodeInfo, "node_get_info")
    pairs = [("CPU model", info.model), ("CPU(s)", str(info.cpus))]
    pairs += [("CPU frequency", f"{info.mhz} MHz")] if info.mhz else []
    pairs += [
        ("CPU socket(s)", str(info.sockets)),
        ("Core(s) per socket", str(info.cores)),
        ("Thread(s) per core", str(info.threads)),
        ("NUMA cell(s)", str(info.nodes)),
        ("Memory size", f"{info.memory} KiB"),
    ]
    data = {name: getattr(info, name) for name in ("model", "cpus", "mhz", "sockets", "cores")}
    return words.facts(pairs, 21), data | {"memory_kib": info.memory}


def _title(session: Session, dom: t.Domain) -> str:
    args = t.DomainFlags(dom, 0)
    xml = session.daemon.ask(t.OneStr, "domain_get_xml_desc", args).value
    return etree.fromstring(xml).findtext("title") or ""


def domain_list(
    session: Session, flags: int, columns: Mapping[str, bool], with_title: bool
) -> Shown:
    """`list`: a table, or the chosen columns of it alone."""
    header = ["Id", "Name", "State", *(["Title"] if with_title else [])]
    rows: list[list[str]] = []
    data = []
    for dom in session.domains(flags):
        try:
            state = session.daemon.ask(t.DomainState, "domain_get_state", t.DomainFlags(dom, 0))
            title = [_title(session, dom)] if with_title else []
        except RemoteError:  # it went away meanwhile
            continue
        word, number = words.state(state.state), str(dom.id) if dom.id >= 0 else "-"
        rows.append([number, dom.name, word, *title])
        data.append(
            {
                "id": dom.id if dom.id >= 0 else None,
                "name": dom.name,
                "uuid": str(uuid.UUID(bytes=dom.uuid)),
                "state": word,
            }
        )
    alone = [name for name, wanted in columns.items() if wanted]
    if not alone:
        return words.table(header, rows, session.quiet), data
    if alone == ["id"]:  # what is off has none
        data = [row for row in data if row["id"] is not None]
    lines = [["-" if row[name] is None else str(row[name]) for name in alone] for row in data]
    return "".join(" ".join(line) + "\n" for line in lines), data


def domain_info(session: Session, dom: t.Domain) -> Shown:
    """`dominfo`."""
    ask, one = session.daemon.ask, t.OneDomain(dom)
    info = ask(t.DomainInfo, "domain_get_info", one)
    os_type = ask(t.OneStr, "domain_get_os_type", one).value
    persistent = ask(t.OneInt, "domain_is_persistent", one).value
    autostart = ask(t.OneInt, "domain_get_autostart", one).value
    messages = ask(t.Messages, "domain_get_messages", t.DomainFlags(dom, 0)).messages
    identity = str(uuid.UUID(bytes=dom.uuid))
    pairs = [
        ("Id", str(dom.id) if dom.id >= 0 else "-"),
        ("Name", dom.name),
        ("UUID", identity),
        ("OS Type", os_type),
        ("State", words.state(info.state)),
        ("CPU(s)", str(info.vcpus)),
    ]
    if info.cpu_time:
        pairs.append(("CPU time", f"{info.cpu_time / 1e9:.1f}s"))
    pairs += [
        ("Max memory", f"{info.max_memory} KiB"),
        ("Used memory", f"{info.memory} KiB"),
        ("Persistent", "yes" if persistent else "no"),
        ("Autostart", "enable" if autostart else "disable"),
        ("Managed save", "no"),
    ]
    if messages:
        pairs.append(("Messages", "\n".join(messages)))
    data = {
        "id": dom.id if dom.id >= 0 else None,
        "name": dom.name,
        "uuid": identity,
        "os_type": os_type,
        "state": words.state(info.state),
        "vcpus": info.vcpus,
        "cpu_time_ns": info.cpu_time,
        "max_memory_kib": info.max_memory,
        "memory_kib": info.memory,
        "persistent": bool(persistent),
        "autostart": bool(autostart),
        "messages": messages,
    }
    return words.facts(pairs, 16), data


def domain_state(session: Session, dom: t.Domain, with_reason: bool) -> Shown:
    """`domstate`."""
    state = session.daemon.ask(t.DomainState, "domain_get_state", t.DomainFlags(dom, 0))
    word, reason = words.state(state.state), words.reason(state.state, state.reason)
    text = f"{word} ({reason})\n" if with_reason else f"{word}\n"
    return text, {"domain": dom.name, "state": word, "reason": reason}


def statistics(session: Session, chosen: list[t.Domain], groups: int) -> Shown:
    """`domstats`."""
    args = t.AllStatsArgs(chosen, groups, 0)
    rows = session.daemon.ask(t.AllStatsRet, "connect_get_all_domain_stats", args).rows
    texts, data = [], {}
    for row in sorted(rows, key=lambda row: row.dom.name):
        values = {param.field: param.value[1] for param in row.params}
        lines = "".join(f"  {name}={value}\n" for name, value in values.items())
        texts.append(f"Domain: '{row.dom.name}'\n{lines}")
        data[row.dom.name] = values
    return "\n".join(texts), data


def event(name: str, message: object) -> Shown:
    """`event`: one event, as it came."""
    inner = getattr(message, "message", message)
    if isinstance(inner, t.LifecycleEvent):
        what = words.pick(words.EVENTS, inner.event)
        detail = words.pick(words.DETAILS.get(inner.event, ()), inner.detail)
        text = f"event 'lifecycle' for domain '{inner.dom.name}': {what} {detail}\n"
        return text, {
            "event": "lifecycle",
            "domain": inner.dom.name,
            "what": what,
            "detail": detail,
        }
    kind = name.removeprefix("domain_event_callback_")
    dom = inner.dom.name if isinstance(inner, t.RebootEvent) else ""
    return f"event '{kind}' for domain '{dom}'\n", {"event": kind, "domain": dom}
