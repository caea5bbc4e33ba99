"""Networks of dynamical systems: simulated, and inferred from series of their nodes' states."""
