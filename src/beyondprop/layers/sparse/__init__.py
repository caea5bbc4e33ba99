"""Layers that compute with their surviving weights alone, forward and backward (SparseProp, arXiv 2302.04852)."""

from beyondprop.layers.sparse.library import instruction_set, limit_instruction_set
from beyondprop.layers.sparse.modules import SparseConv2d, SparseLayer, SparseLinear

__all__ = ["SparseConv2d", "SparseLayer", "SparseLinear", "instruction_set", "limit_instruction_set"]
