"""Batches: the check of an input file, its lines by position, and the runs of them."""
