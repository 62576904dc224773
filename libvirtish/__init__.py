"""A manager of virtual machines that speaks libvirt's remote protocol."""
