"""To be imported by a server of processes: what writes caches is compiled, and loaded, before."""

from __future__ import annotations

import torch

from data.writing.stored_sample import SampleCaster

SampleCaster("float16").cast(torch.zeros(4, 8, 256), 0)
