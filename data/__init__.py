"""Feature caches: images in, one level's samples out.

May import: nothing of this project.
"""
