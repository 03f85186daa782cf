"""Codecs of all levels in one, beside a codec for each level: what they reach.

May import: analyze.facts, analyze.file_format, analyze.maps, analyze.measure, analyze.streams,
data.system, train.codecs, train.objective, train.runs.
"""
