"""Image data sets: formats, boxes, views of an image, pixels.

May import: configs, configs.schema, data.system.
"""
