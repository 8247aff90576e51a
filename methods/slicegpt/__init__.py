"""SliceGPT: the channels of the residual stream that carry least, in a basis of its own, go."""
