"""The planted defects, one file a family of rules."""
