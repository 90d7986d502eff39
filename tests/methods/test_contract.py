"""What every method of the catalogue must do, on a small space that it accepts; and what it refuses."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

import hiernas
from hiernas import spaces
from hiernas.costs.tables import cost_tables, parts_of_space
from hiernas.data import ImageData, load_data
from hiernas.errors import SpaceError
from hiernas.latency import Entry, LatencyTable
from hiernas.methods import METHODS
from hiernas.networks.genotype import Genotype
from hiernas.run import outcome
from hiernas.run.request import Request, prepare
from hiernas.run.search import resume, search
from hiernas.run.settings import keys, with_settings
from hiernas.space import Architecture, SearchSpace

SIZE, CLASSES = (1, 8, 8), 3
OPS = (hiernas.MBConv(3, 1), hiernas.MBConv(3, 2), hiernas.MBConv(5, 2))
CHAIN = (spaces.Stage(8, 2, 1, OPS, skip=True), spaces.Stage(16, 2, 2, OPS, skip=True))
FEW = ("none", "max_pool_3x3", "skip_connect", "dil_conv_3x3")  # restricted, which every method must respect
SKIPS = Genotype(tuple((kind, ((("skip_connect", 0), ("skip_connect", 1)),) * 4) for kind in ("normal", "reduce")))


def few_options(space: SearchSpace) -> SearchSpace:
    """Of the nodes with five edges, those from the cell's own inputs are left out, too."""
    return space.restrict({d.name: ("none",) if d.name.endswith(("0->5", "1->5")) else FEW for d in space.decisions})


SPACES: Mapping[str, SearchSpace] = {
    "chain": spaces.chain_space("chain", SIZE, CLASSES, stem=8, stem_stride=2, stages=CHAIN, head=16),
    "cells": few_options(spaces.darts(SIZE, CLASSES, channels=2, cells=3)),
    "pooled cells": few_options(spaces.darts(SIZE, CLASSES, channels=2, cells=3, pool_bn=True)),
    "stage cells": few_options(spaces.hdas_cells(SIZE, CLASSES, channels=2, cells=5)),
    "graphs": spaces.hdas_stages(SIZE, CLASSES, channels=2, cells=(3, 2, 2), cell=SKIPS),
    "numbers": spaces.hdas_stages(SIZE, CLASSES, channels=2, cells=(3, 2, 2), cell=SKIPS, least=2),
}
ACCEPTED = {  # by method; all other spaces are refused
    "hnas": ("chain",), "spos": ("chain",), "random-search": ("chain",), "hournas": ("chain",),
    "darts": ("cells", "pooled cells", "stage cells"), "hdas-cells": ("stage cells", "cells", "pooled cells"),
    "hmnas": ("pooled cells", "chain", "graphs", "stage cells"),  # the last as the first, with five cells for two
    "hdas-stages": ("graphs",), "hdas-distribution": ("numbers",), "hdas": ("graphs",),
}  # fmt: skip
FEWEST = {  # whichever of these settings a method has
    "epochs": "1", "vital_epochs": "1", "search.epochs": "1", "search.warmup_epochs": "1", "search.decided": "0",
    "cells": "5", "extra_cells": "1", "least": "2",
    "channels": "2", "search.train.batch_size": "12", "search.train.accelerator": "cpu",
    "train.batch_size": "24", "train.accelerator": "cpu", "train.cutout": "0", "train.drop_path": "0.2",
    "population": "4", "generations": "1", "proposals": "2", "proposal_iterations": "100", "calibration_images": "24",
    "final_epochs": "1",
}  # fmt: skip


def accepted_spaces(method: str) -> list[str]:
    """The spaces that a method is run on; a method that is new to this file finds its own."""
    found = ACCEPTED.get(method) or [name for name, space in SPACES.items() if METHODS[method].refusal(space) is None]
    return list(found[: {"hmnas": 3, "plain": len(found)}.get(method, 1)])


def tiny_config(method: str, space: SearchSpace | None = None) -> Any:
    config = METHODS[method].presets["quick"]
    known = keys(config)
    values = {k: v for k, v in FEWEST.items() if k in known}
    if method in ("hnas", "spos", "random-search"):
        values |= {"epochs": "1,1,1", "train.drop_path": "0"}
    elif method in ("hournas", "random", "random-k", "plain") or (space is not None and space.name == "chain"):
        values["train.drop_path"] = "0"
    return with_settings(config, [f"{k}={v}" for k, v in values.items()])


@pytest.fixture(scope="module")
def few() -> ImageData:
    """72 images whose class is how bright they are."""
    rng = np.random.default_rng(0)
    pixels = [(rng.integers(0, 90, SIZE) + 80 * (i % CLASSES)).astype(np.uint8) for i in range(72)]
    return load_data([(torch.from_numpy(x), i % CLASSES) for i, x in enumerate(pixels)])


def latency_file(folder: Path, method: str, space: SearchSpace) -> Path:
    """A made-up table of another device, so that nothing is measured."""
    parts = []
    for needed in dict.fromkeys((space, METHODS[method].among(space))):
        fixed, options = parts_of_space(needed)
        parts += [*fixed, *(part for site in options for chosen in site for part in chosen)]
    entries = {key: Entry(0.02, 0.02, 0.02, 9) for key in dict.fromkeys(p.key for p in parts if not p.is_identity)}
    LatencyTable("another", "onnxruntime", "1", 1, 1, 0.01, entries).save(folder / "table.json")
    return folder / "table.json"


class Stopped(Exception):
    pass


def copied_before_the_final_training(run: Path, to: Path) -> Callable[[Mapping[str, Any]], None]:
    """A listener that keeps what a kill at the first word of the final training would leave."""

    def listen(record: Mapping[str, Any]) -> None:
        if record.get("phase") == "final" and not to.exists():
            shutil.copytree(run, to)

    return listen


def stop(*_: object) -> None:
    raise Stopped


def binding_limits(space: SearchSpace) -> dict[str, int]:
    """Upper bounds that three of ten random architectures meet one by one."""
    tables, genes = cost_tables(space, None), space.sample_encoded(np.random.default_rng(0), 500)
    return {m: math.floor(np.quantile(tables[m].of(genes), 0.3)) for m in ("params", "macs")}


def as_found(method: str, space: SearchSpace, architecture: Architecture) -> Architecture:
    """An architecture as one of the space that the method finds it in."""
    among = METHODS[method].among(space)
    if among is space:
        return architecture
    kept = [{option for option, _ in choice} for choice in architecture.choices]
    pairs = [(site.rpartition(" ")[0], site.rpartition(" ")[2]) for site in among.skeleton.site_names]
    by_site = dict(zip(space.skeleton.site_names, kept, strict=True))
    return among.architecture([option if option in by_site[site] else "none" for site, option in pairs])


@pytest.mark.parametrize(("method", "name"), [(method, name) for method in METHODS for name in accepted_spaces(method)])
def test_every_method_from_a_request_to_its_files_even_when_stopped(
    method: str, name: str, tmp_path: Path, few: ImageData
) -> None:
    space = SPACES[name]
    limits = binding_limits(space)
    request = Request(
        method, space, {}, few, [f"{m}<={v}" for m, v in limits.items()], latency_file(tmp_path, method, space),
        config=tiny_config(method, space),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outcome, "_taken_home", stop)  # which comes after the final training
        with pytest.raises(Stopped):
            search(request, tmp_path / "whole", copied_before_the_final_training(tmp_path / "whole", tmp_path / "r"))
    assert not (tmp_path / "r" / "checkpoint" / "final.safetensors").exists()
    assert not (tmp_path / "r" / "result.json").exists()
    run = resume(tmp_path / "r", space=space, data=few)

    sites = [json.loads((tmp_path / name / "best.json").read_text())["sites"] for name in ("whole", "r")]
    assert sites[0] == sites[1]
    weights = load_file(run.path / "best.safetensors")
    uninterrupted = load_file(tmp_path / "whole" / "checkpoint" / "final.safetensors")
    assert weights.keys() == {name.removeprefix("model.") for name in uninterrupted}
    assert all(torch.equal(value, uninterrupted[f"model.{name}"]) for name, value in weights.items())

    own = space.name == "chain"  # a space of one's own has no name that a file could be read by
    architecture = space.architecture(sites[1]) if own else Architecture.load(run.path / "best.json")
    if method != "hdas":  # which makes a space of the cells that it found
        METHODS[method].among(space).encode(as_found(method, space, architecture))  # refuses what the space does not hold
    result = json.loads((run.path / "result.json").read_text())
    chosen, cost = result["chosen"], hiernas.cost(architecture)  # counted on the whole network
    assert (result["method"], tuple(chosen["options"])) == (method, architecture.labels)
    for metric, bound in limits.items():
        assert getattr(cost, metric) == chosen[metric] <= bound

    network = architecture.build().eval()
    network.load_state_dict(weights)
    x = torch.randn(3, *SIZE, generator=torch.Generator().manual_seed(0))
    session = onnxruntime.InferenceSession(str(run.path / "best.onnx"), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        np.testing.assert_allclose(session.run(None, {"image": x.numpy()})[0], network(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", ACCEPTED)
def test_every_method_refuses_the_wrong_kinds_of_space(method: str, few: ImageData) -> None:
    for name, space in SPACES.items():
        if name in ACCEPTED[method]:
            assert METHODS[method].refusal(space) is None
            continue
        with pytest.raises(SpaceError, match=f"^method '{method}' cannot search '{space.name}': it searches ") as caught:
            prepare(Request(method, space, {}, few, config=tiny_config(method)))
        message = str(caught.value)
        assert "\n" not in message
        assert ". " not in message
