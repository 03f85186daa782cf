"""A trained model on a tensor: to bytes and back.

python examples/trained_model.py [RUN_DIR] [CACHE]
"""

import sys
from pathlib import Path

from data import LevelDataset
from train import load_codec

newest = sorted(Path("checkpoints").glob("*_level_*/run_*/best_model.pth"))[-1:]
model = Path(sys.argv[1], "best_model.pth") if len(sys.argv) > 1 else newest[0]
cache = sys.argv[2] if len(sys.argv) > 2 else "features/scenes/val"

codec, info = load_codec(model)
features = LevelDataset(cache, info.level)[0][None].float()  # [1, C, H, W]
packed = codec.compress(features)
restored = codec.decompress(**packed)["x_hat"]

num_bytes = sum(len(payload) for payload in packed["strings"][0])
mse = (restored - features).square().mean().item()
print(f"level {info.level}, lambda {info.lmbda:g}: {tuple(features.shape)} in {num_bytes} bytes")
print(f"mean squared error {mse:.4g}")
