"""The verbs of `gc-host`: the machines that VMs run on."""
