"""virt-install makes a domain of a kernel: it creates it, then defines the running one."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest

from tests.libvirt.daemon import Daemon
from vmmuser.assets import CLOUD


@pytest.mark.full
def test_virt_install(daemon: Daemon, need: Callable[[object, str], None]) -> None:
    need(shutil.which("virt-install"), "virt-install (virtinst)")
    boot = f"kernel={CLOUD.kernel},initrd={CLOUD.initrd},kernel_args=console=ttyS0"
    machine = ["--name", "made", "--memory", "256", "--vcpus", "1", "--import", "--boot", boot]
    without = ["--disk", "none", "--network", "none", "--graphics", "none", "--noautoconsole"]
    osinfo = ["--osinfo", "detect=off,require=off"]
    done = daemon.run(
        *("virt-install", "--connect", daemon.uri, *machine, *without, *osinfo),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Domain creation completed." in done.stdout
    assert daemon.ok("domstate", "made", "--reason") == "running (booted)"
    assert "Persistent:     yes" in daemon.ok("dominfo", "made")
    assert '<controller type="usb"' in daemon.ok("dumpxml", "made")  # kept, and said
    assert "a controller is not there" in daemon.ok("dominfo", "made")
    daemon.ok("destroy", "made")
    assert daemon.ok("list", "--all", "--name") == "made"
