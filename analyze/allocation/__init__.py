"""Bits over levels: which run for which level, which lambda next.

May import: analyze.curves, analyze.facts, analyze.image_choice, analyze.measure, analyze.streams,
configs, data.images, data.system, extract.accuracy.
"""
