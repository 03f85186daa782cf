"""Figures and pictures of a report.

May import: analyze.detection, analyze.facts, analyze.maps, analyze.measure, configs, data.images,
data.reading, train.codecs, train.runs.
"""
