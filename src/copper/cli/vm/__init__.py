"""The verbs of `gc-vm`: one VM."""
