"""Compare levels: rate, distortion, bitstreams, detection.

May import: analyze.allocation, analyze.anchors, analyze.curves, analyze.detection, analyze.facts,
analyze.measure, analyze.plots, analyze.report, analyze.streams, configs, configs.schema,
data.cache, train.runs.
"""
