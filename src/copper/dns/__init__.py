"""Names of virtual clusters and VMs over DNS: what they mean (`names`), the wire (`answers`), sockets (`server`)."""
