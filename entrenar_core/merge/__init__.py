"""Joining models: one pure function a method over the changes Δ that each model made to one tensor of a common base."""
