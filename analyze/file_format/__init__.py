"""The bytes of an image's file: what it says of each level, and how.

May import: configs.
"""
