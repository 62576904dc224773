"""The TSCs of a VM's vCPUs stay one clock however the client sets them (KVM API 4.18)."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pytest

from kvm_core import abi
from kvm_core.api import Kvm, Vcpu, Vm
from kvm_core.door import DirectDoor

IA32_TSC = 0x10
KVM_VCPU_TSC_CTRL = KVM_VCPU_TSC_OFFSET = 0


@pytest.fixture
def vm() -> Iterator[Vm]:
    """A VM."""
    with Kvm(DirectDoor()) as kvm, kvm.create_vm() as one:
        yield one


def offset(vcpu: Vcpu) -> int:
    """Guest TSC minus host TSC, modulo 2**64."""
    value = ctypes.c_uint64()
    attr = abi.KvmDeviceAttr(
        group=KVM_VCPU_TSC_CTRL, attr=KVM_VCPU_TSC_OFFSET, addr=ctypes.addressof(value)
    )
    vcpu.ioctl(abi.KVM_GET_DEVICE_ATTR, attr)
    return value.value


def test_all_start_alike(vm: Vm) -> None:
    """One offset from the start."""
    first, second = vm.create_vcpu(0), vm.create_vcpu(1)
    assert offset(first) == offset(second)


@pytest.mark.parametrize("value", [0, 10**15])
def test_one_value_for_each(vm: Vm, value: int) -> None:
    """A client that sets vCPU after vCPU to one value means one time."""
    vcpus = [vm.create_vcpu(n) for n in range(3)]
    for vcpu in vcpus:
        vcpu.set_msrs({IA32_TSC: value})
    assert len({offset(vcpu) for vcpu in vcpus}) == 1
    assert value <= vcpus[0].get_msrs([IA32_TSC])[IA32_TSC] < value + 60 * 10**10


def test_set_apart(vm: Vm) -> None:
    """Values that are far from each other are taken as they are."""
    first, second = vm.create_vcpu(0), vm.create_vcpu(1)
    first.set_msrs({IA32_TSC: 10**15})
    second.set_msrs({IA32_TSC: 3 * 10**15})
    apart = (offset(second) - offset(first)) % 2**64
    assert 1.9 * 10**15 < apart < 2.1 * 10**15
