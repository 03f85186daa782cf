"""Layers and likelihoods as in CompressAI.

May import: nothing of this project.
"""
