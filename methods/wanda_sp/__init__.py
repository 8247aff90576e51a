"""Wanda-sp: Wanda's scores, summed up to whole heads and neurons."""
