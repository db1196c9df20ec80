"""What `benchmarks.gpu_check` measures on a GPU, and how."""
