"""A smaller model learns from larger ones: teachers, what they say of a batch, and the objective made of it."""
