"""Torch modules with a backward of their own."""
