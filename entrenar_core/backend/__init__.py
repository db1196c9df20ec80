"""Where the arithmetic runs: a protocol, and its NumPy, CPU and CUDA implementations."""
