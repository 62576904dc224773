"""A domain in the words of the VMM: the JSON description of docs/howto/vm.md."""

from __future__ import annotations

from libvirtish.xml.domain import Definition

SERIAL_MAX = 20  # bytes of a virtio disk's serial number


def description(definition: Definition) -> dict[str, object]:
    """Return the VMM's description of a domain (docs/howto/vm.md)."""
    crash = definition.on_crash.removeprefix("coredump-").removeprefix("rename-")
    return {
        "name": definition.name,
        "uuid": str(definition.uuid),
        "memory_mib": definition.memory_kib // 1024,
        "vcpus": definition.vcpus,
        "cpu": definition.cpu,
        "kernel": definition.kernel,
        **({"initrd": definition.initrd} if definition.initrd else {}),
        "cmdline": definition.cmdline,
        "disks": [
            {
                "path": disk.path,
                "read_only": disk.read_only,
                **({"serial": disk.serial[:SERIAL_MAX]} if disk.serial else {}),
            }
            for disk in definition.disks
        ],
        "consoles": [
            {
                "device": console.device,
                "backend": console.backend,
                "id": console.alias,
                **({"path": console.path} if console.path else {}),
                **({"log": console.log} if console.log else {}),
            }
            for console in definition.consoles
        ],
        "paused": True,  # until its events are listened to
        "on_poweroff": "pause",
        "on_reboot": "exit" if definition.on_reboot == "destroy" else "reset",
        "on_crash": {"destroy": "exit", "restart": "reset", "preserve": "pause"}[crash],
    }
