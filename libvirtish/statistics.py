"""One domain's row of `virsh domstats`: typed parameters with libvirt's names."""

from __future__ import annotations

from libvirtish.domain import Domain
from libvirtish.rpc import types as t

STATE, CPU_TOTAL, BALLOON, VCPU, INTERFACE, BLOCK = 1, 2, 4, 8, 16, 32  # virDomainStatsTypes


def row(domain: Domain, wanted: int) -> t.DomainStats:
    """Return the groups that are wanted; 0 means all."""
    wanted = wanted or STATE | CPU_TOTAL | BALLOON | VCPU | INTERFACE | BLOCK
    params: list[t.TypedParam] = []

    def add(field: str, kind: int, value: object) -> None:
        params.append(t.TypedParam(field, (kind, value)))

    definition = domain.current
    if wanted & STATE:
        add("state.state", t.PARAM_INT, domain.state)
        add("state.reason", t.PARAM_INT, domain.reason)
    if wanted & CPU_TOTAL and domain.vmm is not None:
        add("cpu.time", t.PARAM_ULLONG, domain.vmm.cpu_time_ns())
    if wanted & BALLOON:
        if domain.active:
            add("balloon.current", t.PARAM_ULLONG, definition.memory_kib)
        add("balloon.maximum", t.PARAM_ULLONG, definition.memory_kib)
        if domain.vmm is not None:
            add("balloon.rss", t.PARAM_ULLONG, domain.vmm.resident_kib())
    if wanted & VCPU:
        add("vcpu.current", t.PARAM_UINT, definition.vcpus)
        add("vcpu.maximum", t.PARAM_UINT, definition.vcpus)
    if wanted & INTERFACE:
        add("net.count", t.PARAM_UINT, 0)
    if wanted & BLOCK:
        add("block.count", t.PARAM_UINT, len(definition.disks))
        for number, disk in enumerate(definition.disks):
            add(f"block.{number}.name", t.PARAM_STRING, disk.target)
            add(f"block.{number}.path", t.PARAM_STRING, disk.path)
    return t.DomainStats(domain.ref, params)
