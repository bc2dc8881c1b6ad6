"""The controller: it decides and remembers. Virtual clusters and what becomes of clone calls."""
