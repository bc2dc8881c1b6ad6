"""What the controller remembers, behind one contract."""
