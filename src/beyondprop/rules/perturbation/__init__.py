"""Rules by which a network is evaluated, never differentiated."""
