"""The planted defects, one file a theme."""
