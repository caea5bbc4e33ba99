"""The architectures that the recipes train."""
