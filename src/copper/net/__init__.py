"""The private networks of virtual clusters on one host: addresses, namespaces, bridges, taps, and what may be sent."""
