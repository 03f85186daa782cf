"""Train a detector for one's own classes (train-detector).

May import: configs, configs.schema, data.images, data.system, extract.detector.
"""
