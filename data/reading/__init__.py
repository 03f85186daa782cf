"""Samples out of a cache: reader, order of an epoch, streams, copies to the device.

May import: configs, data.cache, data.coding, data.remote, data.system.
"""
