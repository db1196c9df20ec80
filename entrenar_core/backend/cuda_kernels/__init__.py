"""The kernels of the CUDA backend: `.cu` files, each compiled after `common.cuh`; see `backend.cuda_source`."""
