"""Places that are no folder of this machine: object stores, by their URL, and copies of them here.

May import: configs, data.system.
"""
