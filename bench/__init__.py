"""Repeatable measurements of the running product, as ratios to a peer in the same run."""
