"""What servers and workers say of themselves in the same way: logs and traces. Needs no torch."""
