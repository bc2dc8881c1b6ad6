"""A hypervisor without machines: the same host agent, with delays and faults on demand.

core = Core(MemoryStore())
host = FakeHost(Room("fake-0"), Settings(), DirectLink(core.calls.answer, core.ended))
core.hosts.add(host.name, host)               # it is the controller's link as well
host.room.faults.plan("thaw", "fail", nth=3)
await host.room.call("a-0", "clone", {"count": 8})   # as a program in the guest does
host.kill()                                   # its machines run on
await host.start()                            # and are found again
"""
