"""Every setting of the commands, typed, with its default; a section a class.

May import: nothing of this project.
"""
