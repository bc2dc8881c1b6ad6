"""Forks the machine that it runs in; each machine says who it is."""

from gridcentric import guest as gc

ticket = gc.request_ticket(2, 2, 1, 1000)
vmid = gc.clone(ticket)
print(f"hello from Python, vmid {vmid}")
