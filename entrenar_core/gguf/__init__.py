"""Reading and writing GGUF files, and the names used inside them."""
