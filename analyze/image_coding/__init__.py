"""Pictures in the codecs that everyone has, and the whole detector on images that went through one.

May import: analyze.detection, analyze.facts, configs, data.images, extract.accuracy,
extract.detector.
"""
