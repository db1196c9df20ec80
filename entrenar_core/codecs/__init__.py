"""One codec per GGML block type: bytes of a GGUF tensor to float32 values and back."""
