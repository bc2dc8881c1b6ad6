"""The host agent: it does. VMs, standbys, guests' ports, and finding them all again."""
