"""Disks that others made: looked at before QEMU opens them, and made ours by a guest's own cloud-init."""
