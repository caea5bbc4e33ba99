"""Rules by which a physical system settles, or echoes."""
