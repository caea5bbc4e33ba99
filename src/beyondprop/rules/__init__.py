"""The learning rules, in families by how they assign credit."""
