"""The tape, tensors and differentiable operations."""
