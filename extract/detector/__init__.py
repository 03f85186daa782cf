"""A detector by name: builder, weights, pyramid, labels, and whether a cache is of it.

May import: configs, configs.schema, data.cache, data.images.
"""
