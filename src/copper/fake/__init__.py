"""A hypervisor without machines: the same host agent, with delays and faults on demand.

room = Room("fake-0")                 # one host: what outlives its agent
agent = room.agent(settings, link)    # a host agent over it
room.faults.plan("thaw", "fail", nth=3)
"""
