"""What training minimises: rate, distortions by name, weights of channels and positions.

May import: configs, configs.schema, data.cache, data.images, data.reading, extract.detector.
"""
