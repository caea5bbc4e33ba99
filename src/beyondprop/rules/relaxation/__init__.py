"""A physical system settles, or echoes."""
