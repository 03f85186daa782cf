"""What users run on a codec of their own: `from train.testing import check_codec`.

May import: configs.schema, train.codecs, train.codecs.layers, train.loop, train.objective.
"""

from train.testing.conformance import check_codec

__all__ = ["check_codec"]
