"""Caches in an object store, each by a folder of this machine that stands for it.

Such a copy has the remote files' names, sizes and indexes; of their samples it holds what was read
or written last, up to a bound, and holes for the rest. So all that works on files works on it.

May import: configs, data.cache, data.places, data.system.
"""
