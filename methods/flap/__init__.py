"""FLAP: what hardly fluctuates goes, and its mean stays as a bias."""
