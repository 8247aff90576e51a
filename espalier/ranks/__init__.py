"""Ranks: the processes that train one model together, one a GPU, on one machine or several."""
