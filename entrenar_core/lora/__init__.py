"""Low-rank adapters: injecting, folding, saving and loading them."""
