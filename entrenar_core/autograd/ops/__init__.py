"""Differentiable ops, one file per family; import a family and call its functions on tensors."""
