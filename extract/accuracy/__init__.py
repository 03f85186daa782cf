"""A detector's COCO mAP: figures, matches of detections to truths, intervals over images.

May import: data.cache, data.images, extract.detector.
"""
