"""The nouns: frozen records, errors, names and settings. No I/O."""
