"""g_a and g_s on a CPU by Winograd's algorithm; only speed is lost without this room.

May import: data.system, train.codecs.layers.
"""
