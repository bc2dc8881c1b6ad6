"""One QEMU process: its arguments, its monitor, its memory, and what this machine can do."""
