"""`hiernas cost`: files, run folders and published networks by name."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hiernas.cli import app
from hiernas.commands import cost as command
from hiernas.commands.cost import architecture_of
from hiernas.commands.lists import listing
from hiernas.commands.options import CostOptions
from hiernas.costs.tables import cost
from hiernas.errors import ConfigError, RunError, SpaceError
from hiernas.space import Architecture
from hiernas.spaces import KNOWN, darts, known, tiny

PIXEL = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "latency" / "pixel1-proxylessnas.yaml"
SCALE = {"darts-v1": 0.05, "snas-mild": 0.1, "snas-mild-imagenet": 0.1, "hdas-cells-imagenet": 0.04}  # see docs/spaces.md


@pytest.mark.parametrize("name", [name for name, network in KNOWN.items() if network.space.startswith(("darts", "hdas"))])
def test_published_sizes_of_cell_networks(name: str) -> None:
    counted = cost(known(name))
    assert counted.params / 1e6 == pytest.approx(KNOWN[name].published_params, rel=SCALE.get(name, 0.02))
    if name in ("gdas-imagenet", "hdas-cells-imagenet"):  # the two whose printed MACs are of convolutions alone
        assert round(counted.macs / 1e6) in (KNOWN[name].published_macs, KNOWN[name].published_macs + 1)  # type: ignore[operator]


def cost_of(source: str, **options: Any) -> dict[str, str]:
    return command.cost(CostOptions(source=source, **options), lambda _: None)


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


def test_every_space_is_listed_with_its_paper() -> None:
    columns, rows, remarks = listing("spaces")
    assert columns == ["space", "sites", "options", "size", "params", "MACs"]
    by_name = {row[0]: row for row in rows}
    assert by_name["fbnet"][1:4] == ["22", "9", "9.85×10²⁰"]
    assert by_name["darts"][1:4] == ["28", "8", "1.08×10¹⁸"]
    assert len([r for r in remarks if "arXiv" in r]) == len(rows) - 1
