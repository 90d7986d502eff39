"""A trained network of your own, made smaller by a search around it that keeps what it has learned.

    python examples/own_backbone.py [--quick] [--fresh] [--seed N] [--out FOLDER]

About a minute and a half; `--quick` takes about ten seconds and finds nothing worth keeping. `--fresh` is the control: the same
search around the same network before it was trained.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

import hiernas
from hiernas import MBConv, SearchSpace


class Block(nn.Module):
    """Any module from features to features will do; this is ResNet's."""

    def __init__(self, cin: int, cout: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False), nn.BatchNorm2d(cout)
        self.conv2, self.bn2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False), nn.BatchNorm2d(cout)
        self.down = nn.Conv2d(cin, cout, 1, stride) if stride > 1 or cin != cout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))) + self.down(x))


class Backbone(nn.Module):
    """The network that you have."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.blocks = nn.Sequential(Block(16, 16), Block(16, 16), Block(16, 32, 2), Block(32, 32), Block(32, 32))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)))


def trained(network: Backbone, epochs: int) -> Backbone:
    """Trained by a loop as anybody writes it."""
    data = hiernas.load_data("digits")
    images = data.train.images.fetch(torch.arange(len(data.train))) / 255
    x, y = (images - data.mean[0]) / data.std[0], data.train.labels
    optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9, weight_decay=1e-4)
    for _ in range(epochs):
        for batch in torch.randperm(len(y)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x[batch]), y[batch]).backward()
            optimizer.step()
    return network


def space_around(network: Backbone) -> SearchSpace:
    """Each block stays, becomes a lighter one, or goes."""
    return hiernas.backbone_space(
        "smaller", (1, 8, 8), 10, stem=network.stem, blocks=list(network.blocks), head=network.head,
        ops=[MBConv(3, 2), MBConv(3, 4), MBConv(5, 2)],
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Search around a network of your own.")
    parser.add_argument("--quick", action="store_true", help="one epoch of everything")
    parser.add_argument("--fresh", action="store_true", help="do not train the network first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None, help="run folder; default: a new one under runs/")
    asked = parser.parse_args()

    torch.manual_seed(asked.seed)
    network = trained(Backbone(), 0 if asked.fresh else 1 if asked.quick else 12)
    size = sum(p.numel() for p in network.parameters())
    limit = f"params<={size // 2}"
    quick = ["epochs=1,1", "stages=3", "population=4", "generations=1"] if asked.quick else ["epochs=4,2,2", "population=8"]
    settings = ["lr=0.02,0.01,0.01" if not asked.quick else "lr=0.02,0.01", *quick, "final_epochs=4", "final_lr=0.05"]
    space = space_around(network)
    found = hiernas.hnas(space, "digits", limit, settings=settings, seed=asked.seed, out=asked.out)
    print(f"{size:,} parameters -> {found.chosen.params:,}: {' '.join(found.architecture.options)}")
    print(f"test accuracy {found.test_accuracy:.2%}; run folder {found.run_folder}")
    maps = hiernas.load(found.run_folder, space).features(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))
    print("feature maps for a detector: " + ", ".join("x".join(str(n) for n in m.shape[1:]) for m in maps))


if __name__ == "__main__":
    main()
