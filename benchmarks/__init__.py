"""Peers side by side, on this machine, in one run; ratios only. `python -m benchmarks` runs all of them."""
