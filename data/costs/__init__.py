"""What work takes on machines like the one that was measured: the slowest part is the limit.

May import: nothing of this project.
"""
