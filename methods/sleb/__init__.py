"""SLEB: layers go one by one, each time the one that is missed least."""
