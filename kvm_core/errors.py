"""The one small tree of errors that the Python side raises."""


class VmError(Exception):
    """Anything that stops a virtual machine or keeps it from starting."""


class ConfigError(VmError):
    """The user asked for something that cannot be: a file, a flag, a size."""


class GuestError(VmError):
    """The guest did something that ends its machine: a triple fault, an address that is not
    there.
    """


class BackendError(VmError):
    """What lies below failed: the KVM door, a disk image, the terminal."""
