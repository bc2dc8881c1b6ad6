"""The verbs of `copper image`: stored images."""
