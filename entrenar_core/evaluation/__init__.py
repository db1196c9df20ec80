"""What a model is worth: perplexity, divergence from a reference, choices and answers, measured on batches."""
