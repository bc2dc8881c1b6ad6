"""One machine's Copper in one process: `python -m copper.node` serves until it is told to end; VMs outlive it."""
