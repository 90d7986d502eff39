"""What a search makes of a small folder: 4 classes of 60 and of 20 drawn images of 40 to 130 pixels, by the plain commands.

    python benchmarks/small_folder.py [METHOD[/STEM] ...] [SEED ...]

Each search is `hiernas search METHOD --data FOLDER --limit "latency_ms<=2" --preset small --seed SEED`; the seed draws the
images, too. Every row is written as its search ends, and what the result file has already is not done again. The control is
the network that the search found, trained by the preset as it is, for its own few epochs, without new statistics: how it
was before.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import shapes

from common import dated
from hiernas.data.load import joined
from hiernas.methods.hnas import SMALL
from hiernas.run.folder import RunFolder
from hiernas.run.request import Request, prepare
from hiernas.run.search import search
from hiernas.space import Architecture
from hiernas.train.loop import accuracy, fit
from hiernas.train.recipes import Phase

METHODS = ("hnas", "hournas", "darts", "hmnas")
PER_CLASS = (60, 20)
HEAD = """# Small folders

`python benchmarks/small_folder.py`. Test accuracy in % of 48 (60 images per class) or 16 (20 per class)
held-out images; chance is 25 %.

| images per class | method | seed | before | now | validation, supernet | final epochs | doubts |
|---|---|---|---|---|---|---|---|
"""


def row(method: str, per_class: int, seed: int, folder: Path) -> str:
    data = folder / f"shapes{per_class}-{seed}"
    shapes.draw(data, per_class, seed)
    name, _, stem = method.partition("/")  # of networks of cells
    arguments = {"stem": stem} if stem else {}
    limits = ["latency_ms<=2"]
    request = Request(name, data=data, space_arguments=arguments, limits=limits, preset="small", seed=seed)
    prepared = prepare(request)
    run = search(request, folder / f"{name}-{per_class}-{seed}")
    result = run.read_json("result.json")
    assert result is not None
    architecture = Architecture.load(run.path / "best.json")
    asked = request.resolved()
    before = RunFolder.create(folder / f"before-{name}-{per_class}-{seed}", {"method": "train", "seed": seed, "data": {}})
    network = architecture.build()
    both = joined(prepared.data.train, prepared.data.val)
    epochs, lr = (asked.final_epochs, asked.final_lr) if asked.final_epochs > 1 else (SMALL.final_epochs, SMALL.final_lr)
    fit(network, both, prepared.data, Phase("final", epochs, lr), asked.train, seed=seed, run=before)
    then = accuracy(network.cpu(), prepared.data.test, prepared.data)
    chosen = result["chosen"]
    said = "; ".join(doubt.partition(":")[0][:70] for doubt in result["doubts"]) or "none"
    return (
        f"| {per_class} | {method} | {seed} | {100 * then:.1f} | {100 * chosen['test_accuracy']:.1f} | "
        f"{100 * chosen['val_accuracy']:.1f} | {prepared.config.final_epochs} | {said} |"
    )


def main(methods: list[str], seeds: list[int]) -> None:
    path = dated("small_folder")
    if not path.exists():
        path.write_text(HEAD)
    for seed in seeds:
        for per_class in PER_CLASS:
            for method in methods:
                if f"| {per_class} | {method} | {seed} |" in path.read_text():
                    continue
                with tempfile.TemporaryDirectory() as folder:
                    line = row(method, per_class, seed, Path(folder))
                with path.open("a") as file:
                    file.write(line + "\n")
                print(line, flush=True)


if __name__ == "__main__":
    words = sys.argv[1:]
    main([w for w in words if not w.isdigit()] or list(METHODS), [int(w) for w in words if w.isdigit()] or [0, 1, 2])
