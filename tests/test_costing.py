"""`hiernas cost`: files, run folders and published networks by name."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hiernas.cli import app
from hiernas.cli.progress import Display
from hiernas.commands import CostOptions, compare
from hiernas.commands import cost as command
from hiernas.commands import rank as trust
from hiernas.commands.cost import architecture_of
from hiernas.costs.tables import cost, count
from hiernas.errors import ConfigError, RunError, SpaceError
from hiernas.report import study
from hiernas.space import Architecture
from hiernas.spaces import KNOWN, darts, known, tiny

PIXEL = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "latency" / "pixel1-proxylessnas.yaml"
SCALE = {"darts-v1": 0.05, "snas-mild": 0.1, "snas-mild-imagenet": 0.1, "hdas-cells-imagenet": 0.04}  # see docs/spaces.md


@pytest.mark.parametrize("name", [name for name, network in KNOWN.items() if network.space.startswith(("darts", "hdas"))])
def test_published_sizes_of_cell_networks(name: str) -> None:
    architecture = known(name)
    counted = count(architecture.build, architecture.skeleton.input_size)
    assert counted.params / 1e6 == pytest.approx(KNOWN[name].published_params, rel=SCALE.get(name, 0.02))
    if name in ("gdas-imagenet", "hdas-cells-imagenet"):  # the two whose printed MACs are of convolutions alone
        assert round(counted.macs / 1e6) in (KNOWN[name].published_macs, KNOWN[name].published_macs + 1)  # type: ignore[operator]


def cost_of(source: str, **options: Any) -> dict[str, str]:
    return command.in_words(command.cost(CostOptions(source=source, **options), lambda _: None))


def loaded(source: str, **options: Any) -> Architecture:
    return architecture_of(CostOptions(source=source, **options))


def test_a_file_costs_what_is_counted_and_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIERNAS_CACHE", str(tmp_path))
    for space in (tiny(), darts((1, 8, 8), 10, channels=2, cells=3)):
        architecture = next(iter(space)) if space.name == "tiny" else space.architecture("Genotype(" + GENES + ")")
        architecture.save(tmp_path / "a.json")
        shown = cost_of(str(tmp_path / "a.json"))
        counted = cost(architecture)
        assert (shown["params"], shown["macs"]) == (f"{counted.params:,}", f"{counted.macs:,}")
        predicted, measured = (float(shown[f"latency {kind}"].split()[0]) for kind in ("predicted", "measured"))
        assert predicted > 0
        assert measured > 0
        assert "published params" not in shown


NORMAL = [("skip_connect", 0), ("sep_conv_3x3", 1)] * 4
REDUCE = [("max_pool_3x3", 0), ("skip_connect", 1)] * 4
GENES = f"normal={NORMAL}, reduce={REDUCE}"


@pytest.mark.skipif(not PIXEL.exists(), reason="the phones' latency tables are not beside the checkout")
def test_the_pixel_1_stands_beside_the_published_latency() -> None:
    shown = cost_of("proxyless-mobile", settings=["space.widths=search"], latency_table=PIXEL)
    assert shown["latency predicted"].startswith("82.5\xa0ms (pixel1-proxylessnas")
    assert shown["published latency"] == "Pixel 1: 78 ms"
    assert "82.5 ms" in shown["note"]
    result = CliRunner().invoke(app, ["cost", "proxyless-mobile", "--latency-table", str(PIXEL)])
    assert "56x56x32" in str(result.exception)


def test_networks_by_name_take_other_sizes() -> None:
    small = loaded("mnasnet-a1", input_size="1,28,28", num_classes=7)
    assert (small.skeleton.input_size, small.skeleton.num_classes) == ((1, 28, 28), 7)
    assert loaded("darts-v2", settings=["space.channels=4"]) == known("darts-v2", channels=4)


def test_what_is_no_network_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="unknown network 'mnasnet-a9'; did you mean 'mnasnet-a1'"):
        loaded("mnasnet-a9")
    with pytest.raises(SpaceError, match="no run folder and no architecture file"):
        loaded(str(tmp_path / "nothing.json"))
    with pytest.raises(RunError, match="run folder"):
        loaded(str(tmp_path))
    next(iter(tiny())).save(tmp_path / "a.json")
    with pytest.raises(ConfigError, match="are for published networks"):
        loaded(str(tmp_path / "a.json"), num_classes=3)
    with pytest.raises(SpaceError, match=r"space 'fbnet' has no setting 'space\.width'; known: stem, head"):
        loaded("fbnet-c", settings=["space.width=3"])


def by_command(*words: str) -> Any:
    """What a command prints on standard output: one JSON document and nothing else."""
    done = CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False)
    return json.loads(done.stdout)


def test_costs_as_json_are_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIERNAS_CACHE", str(tmp_path))
    next(iter(tiny())).save(tmp_path / "a.json")
    found = by_command("cost", str(tmp_path / "a.json"))
    assert found["params"] == sum(p.numel() for p in next(iter(tiny())).build().parameters())
    assert found["latency_ms"]["predicted"] > 0
    assert found["latency_ms"]["measured"] <= found["latency_ms"]["median"] <= found["latency_ms"]["p90"]
    assert "published" not in found
    rows = {row[0]: row for row in by_command("list", "networks")["rows"]}
    assert set(rows) == set(KNOWN)
    assert (rows["fbnet-c"][2], rows["fbnet-c"][3]) == (cost(known("fbnet-c")).params, "5.5 M")


def test_json_is_alone_on_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of commands that tell what they do meanwhile."""
    order = trust.Order(0.5, 0.1, 0.9, 0.01, 7)

    def told(found: Any) -> Any:
        def do(*given: Any) -> Any:
            next(x for x in given if isinstance(x, Display))({"event": "rehearsal"})
            return found

        return do

    monkeypatch.setattr(trust, "rank", told(trust.Trust(0.9, (0.5, 0.7), 50.0, {"front": order, "own": "too few"}, 3)))
    value = by_command("rank", "r")
    assert (value["random"], value["orders"]["front"]["tau"], value["orders"]["own"]) == ([0.5, 0.7], 0.5, "too few")
    rows = [study.Row(x, x, "l", 0, "d", "s", accuracy, None, 9, 9, None, 1.0, 6.0, 6.0, 0, x)
            for x, accuracy in (("hnas", 0.75), ("plain", 0.5))]  # fmt: skip
    monkeypatch.setattr(compare, "compare", told(compare.Compared(rows, ["one is left"], None)))
    value = by_command("compare", "r", "s")
    assert (value["differences"][0]["mean"], value["differences"][0]["low"], value["missing"]) == (25, None, ["one is left"])
