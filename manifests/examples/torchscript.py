"""Writes torchscript.pt, the network of torchscript.yaml: a small residual network for pictures of 3x32x32.

    pip install torch --index-url https://download.pytorch.org/whl/cpu
    python torchscript.py [FILE]

What scadles asks of such a module: forward() takes pictures [batch, channels, height, width] of any batch and returns
scores [batch, classes]; it draws nothing (no dropout) and keeps no state but its parameters (GroupNorm, not BatchNorm).
"""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            nn.GroupNorm(4, outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.GroupNorm(4, outputs),
        )
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, pictures: Tensor) -> Tensor:
        return torch.relu(self.path(pictures) + self.shortcut(pictures))


class Net(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(Block(8, 8, 1), Block(8, 16, 2))
        self.head = nn.Linear(16 * 4 * 4, classes)

    def forward(self, pictures: Tensor) -> Tensor:
        hidden = self.blocks(torch.relu(self.stem(pictures)))
        return self.head(nn.functional.avg_pool2d(hidden, 2).flatten(1))


if __name__ == "__main__":
    torch.manual_seed(1)
    torch.jit.script(Net(10)).save(sys.argv[1] if len(sys.argv) > 1 else str(Path(__file__).with_suffix(".pt")))
