"""Rules by which a physical system that settles, or echoes, finds its gradient by itself."""
