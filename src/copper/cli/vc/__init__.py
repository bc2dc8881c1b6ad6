"""The verbs of `gc-vc`: virtual clusters."""
