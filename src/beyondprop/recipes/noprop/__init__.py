"""The recipes of NoProp (arXiv 2503.24322)."""
