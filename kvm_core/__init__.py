"""The processor and the KVM objects: a C core behind the KVM ioctl ABI.

Read kvm_core/_accel.c first for the C side, kvm_core/api.py for the Python side.
"""
