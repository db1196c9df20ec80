"""Reverse-mode automatic differentiation: tensors, a tape, and ops with forward and backward side by side."""
