"""Copper: a cluster operating system whose primitive is the live fork of whole virtual machines."""

__version__ = "0.1.0"
