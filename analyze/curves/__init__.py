"""Rate-quality curves: hulls, Bjontegaard deltas, comparisons.

May import: analyze.anchors, analyze.facts.
"""
