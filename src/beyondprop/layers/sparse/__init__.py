"""Layers that compute with their surviving weights alone, forward and backward (SparseProp, arXiv 2302.04852)."""

from beyondprop.layers.sparse.layer import SparseLayer
from beyondprop.layers.sparse.library import instruction_set, limit_instruction_set
from beyondprop.layers.sparse.modules import SparseConv2d, SparseLinear
from beyondprop.layers.sparse.pruning import DynamicSparseTraining, GradualPruning, prune, to_sparse
from beyondprop.layers.sparse.sparsify import Sparsified, sparsify

__all__ = [
    "DynamicSparseTraining",
    "GradualPruning",
    "SparseConv2d",
    "SparseLayer",
    "SparseLinear",
    "Sparsified",
    "instruction_set",
    "limit_instruction_set",
    "prune",
    "sparsify",
    "to_sparse",
]
