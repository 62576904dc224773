"""The virtual machine monitor: machine, boards, devices and boot, over the KVM ABI alone."""

__version__ = "0.1.0"
