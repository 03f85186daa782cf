"""Codecs of all levels in one, the rivals of a codec for each level: what they reach.

May import: analyze.anchors, analyze.facts, analyze.maps, analyze.measure, analyze.streams,
data.system, train.codecs, train.objective, train.runs.
"""
