"""The parts that techniques share: one loop, its stages, losses, optimisers, attacks and data sets."""
