"""Virtio 1.x: queues, the MMIO transport and the devices."""
