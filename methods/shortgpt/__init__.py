"""ShortGPT: the layers that change the hidden states least go."""
