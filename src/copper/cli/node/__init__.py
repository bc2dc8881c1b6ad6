"""The verbs of `copper` for the Copper of this machine: start, end, examine."""
