"""A level's cache in a training loop of one's own.

python examples/own_loop.py [CACHE] [LEVEL]
"""

import sys

import torch

from data import LevelReader, LevelStream, on_device

cache = sys.argv[1] if len(sys.argv) > 1 else "features/scenes/train"
level = int(sys.argv[2]) if len(sys.argv) > 2 else 0
device = "cuda" if torch.cuda.is_available() else "cpu"

with LevelReader(cache, level) as reader:
    channels = reader.info.num_channels
    model = torch.nn.Conv2d(channels, channels, 1).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    # A GPU is fed while it computes: two batches have to stay valid.
    stream = LevelStream(reader, batch_size=8, crop=32, keep=2)
    for epoch in range(2):  # each epoch comes in another order
        for _, features in on_device(stream, device):  # float32 [B, C, H, W]
            loss = (model(features) - features).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: loss {loss.item():.4g}")
