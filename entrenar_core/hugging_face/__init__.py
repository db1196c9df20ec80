"""Folders as Hugging Face publishes models: safetensors, config.json, tokenizer.json, and how GGUF says the same."""
