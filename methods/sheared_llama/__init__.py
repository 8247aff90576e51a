"""Sheared-LLaMA (Xia et al., 2023): masks learned to a target shape, with dynamic data loading."""
