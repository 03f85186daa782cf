"""Tables, sections, and the page that shows them.

May import: analyze.allocation, analyze.anchors, analyze.curves, analyze.detection, analyze.facts,
analyze.fused, analyze.image_choice, analyze.measure, analyze.plots, analyze.streams, configs,
data.system, extract.accuracy.
"""
