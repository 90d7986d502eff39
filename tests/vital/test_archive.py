"""Files of torch.export are read as text: whatever they hold, nothing of it runs, and what cannot be read is one sentence."""

from __future__ import annotations

import copy
import json
import pickle
import random
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hiernas.commands import VitalOptions
from hiernas.commands.vital import listing
from hiernas.errors import SpaceError
from hiernas.networks.archive import graph_of_file
from hiernas.networks.graph import graph_of_network, graph_of_program


class Little(nn.Module):
    """Several results of one operation, a change in place, and a product."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(3, 8, 3, groups=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.parts = nn.ModuleList([nn.Linear(8, 4), nn.Conv2d(4, 4, 3, groups=4)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        y, z = x.chunk(2, 1)
        most, _ = x.max(1, keepdim=True)
        return self.parts[0](torch.cat([self.parts[1](y).mean((2, 3)), z.mean((2, 3))], 1)) * most.mean()


def saved(network: nn.Module, path: Path, size: tuple[int, ...] = (2, 3, 8, 8)) -> Path:
    program = torch.export.export(network.eval(), (torch.zeros(size),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, path)
    return path


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(Little(), tmp_path_factory.mktemp("pt2") / "good.pt2")


def with_entries(source: Path, path: Path, change: Callable[[str, bytes], bytes]) -> Path:
    with zipfile.ZipFile(source) as before, zipfile.ZipFile(path, "w") as after:
        for entry in before.infolist():
            after.writestr(entry.filename, change(entry.filename, before.read(entry)))
    return path


def with_description(source: Path, path: Path, text: str) -> Path:
    return with_entries(source, path, lambda name, data: text.encode() if name.endswith("model.json") else data)


def description(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        return dict(json.loads(archive.read(next(n for n in archive.namelist() if n.endswith("models/model.json")))))


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch's own, when it copies a program
def test_the_graph_is_that_of_torchs_own_reader(good: Path, tmp_path: Path) -> None:
    layers = [nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True) for _ in range(2)]
    network = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.Flatten(2), nn.Linear(4, 8), *layers, nn.Flatten(), nn.Linear(32, 3))
    for path in (good, saved(network, tmp_path / "attention.pt2")):
        assert graph_of_file(path) == graph_of_program(torch.export.load(path))
    counted = graph_of_network(Little(), (3, 8, 8))
    assert sum(c.macs for c in graph_of_file(good).calls.values()) == sum(c.macs for c in counted.calls.values()) > 0


class Runs:
    """Pickled so that who reads it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return open, (str(self.path), "w")


def test_nothing_in_a_crafted_file_runs(good: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    bad = pickle.dumps(Runs(marker))
    pickled = with_entries(good, tmp_path / "p.pt2", lambda name, data: bad if name.endswith("inputs/model.pt") else data)
    assert listing(VitalOptions(source=str(pickled))).blocks == listing(VitalOptions(source=str(good))).blocks
    expression = json.dumps(f"open({str(marker)!r}, 'w')")
    text = json.dumps(description(good))
    for start in ('"expr_str": "', '"target": "'):
        first = text.index(start) + len(start) - 1
        crafted = text[:first] + expression + text[text.index('"', first + 1) + 1 :]
        assert crafted != text
        path = with_description(good, tmp_path / "e.pt2", crafted)
        listing(VitalOptions(source=str(path)))
    assert not marker.exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "Expecting property name"),
        ("[1, 2]", "valid dictionary"),
        ("[" * 200_000, "recursion"),
        ('{"graph_module": {"graph": {"nodes": 3}}}', "graph_module.graph.nodes: input should be a valid list"),
    ],
)
def test_damaged_descriptions_are_named(good: Path, tmp_path: Path, text: str, said: str) -> None:
    path = with_description(good, tmp_path / "bad.pt2", text)
    with pytest.raises(SpaceError, match=f"bad.pt2 cannot be read as a program of torch.export: .*{said}"):
        graph_of_file(path)


def test_any_description_gives_a_graph_or_one_sentence(good: Path, tmp_path: Path) -> None:
    """Values anywhere in the description are replaced by others, or taken out."""
    rng, whole, refused = random.Random(0), description(good), 0
    others: list[Any] = [None, -1, 0, 10**30, 1e400, "", "x", [], {}, True, [None], {"name": 3}, "torch.ops.aten.mm.default"]
    for _ in range(300):
        value = copy.deepcopy(whole)
        node: Any = value["graph_module"]
        while True:
            keys = list(node) if isinstance(node, dict) else range(len(node))
            if not keys:
                break
            key = rng.choice(keys)
            if isinstance(node[key], dict | list) and rng.random() < 0.85:
                node = node[key]
                continue
            node[key] = rng.choice(others)
            break
        path = with_description(good, tmp_path / "any.pt2", json.dumps(value))
        with suppress(SpaceError):
            graph_of_file(path)
            continue
        refused += 1
    assert 30 < refused < 300
