"""Symbols to bytes and back: rANS, tables for latents, tables for channels.

May import: configs, data.system, train.codecs.layers.
"""
