"""Phone tables: sums against sums by hand from the YAML text."""

import re
from pathlib import Path

import pytest

from hiernas.costs.tables import cost_tables
from hiernas.data import ImageData
from hiernas.errors import LatencyError
from hiernas.latency import PhoneTable, load_table
from hiernas.networks.ops import Classifier, Conv, MBConv, Skip
from hiernas.networks.parts import Part
from hiernas.run.request import Request, prepare
from hiernas.spaces import Stage, chain_space, proxyless

FOLDER = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "latency"
PIXEL, NOTE = FOLDER / "pixel1-proxylessnas.yaml", FOLDER / "note10-mobilenetv3-224.yaml"
pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="the phones' latency tables are not beside the checkout")

# ProxylessNAS-mobile's choices, and per block the height, input and output channels and stride at its search widths
CHOICES = "k3_e1 k5_e3 k3_e3 skip skip k7_e3 k3_e3 k5_e3 k5_e3 k7_e6 k5_e3 k5_e3 k5_e3 k5_e6 k5_e3 k5_e3 k5_e3 " \
    "k7_e6 k7_e6 k7_e3 k7_e3 k7_e6"  # fmt: skip
BLOCKS = [
    (112, 32, 16, 1), (112, 16, 24, 2), (56, 24, 24, 1), (56, 24, 24, 1), (56, 24, 24, 1), (56, 24, 40, 2),
    (28, 40, 40, 1), (28, 40, 40, 1), (28, 40, 40, 1), (28, 40, 80, 2), (14, 80, 80, 1), (14, 80, 80, 1), (14, 80, 80, 1),
    (14, 80, 96, 1), (14, 96, 96, 1), (14, 96, 96, 1), (14, 96, 96, 1), (14, 96, 192, 2), (7, 192, 192, 1),
    (7, 192, 192, 1), (7, 192, 192, 1), (7, 192, 320, 1),
]  # fmt: skip


def means(path: Path) -> dict[str, float]:
    """Key and mean of each entry, read without a YAML parser."""
    return {key: float(mean) for key, mean in re.findall(r"^(\S+):\n(?:  (?!mean).*\n)*  mean: (\S+)$", path.read_text(), re.M)}


def pixel_sum(choices: list[str]) -> float:
    entries = means(PIXEL)
    total = entries["Conv-input:224x224x3-output:112x112x32"] + entries["Conv_1-input:7x7x320-output:7x7x1280"]
    total += entries["Logits-input:7x7x1280-output:1000"]
    for choice, (h, cin, cout, stride) in zip(choices, BLOCKS, strict=True):
        if choice != "skip":
            kernel, expand = choice[1], choice[-1]
            residual = "1" if cin == cout and stride == 1 else "0"
            total += entries[
                f"expanded_conv-input:{h}x{h}x{cin}-output:{h // stride}x{h // stride}x{cout}"
                f"-expand:{expand}-kernel:{kernel}-stride:{stride}-idskip:{residual}"
            ]
    return total


def test_pixel_1_sum_equals_the_sum_by_hand() -> None:
    table, space = load_table(PIXEL), proxyless(widths="search")
    architecture = space.architecture(CHOICES.split())
    assert table.predict(architecture) == pytest.approx(pixel_sum(CHOICES.split()), rel=1e-12)
    assert cost_tables(space, table)["latency_ms"].of(space.encode(architecture)[None])[0] == table.predict(architecture)
    smallest = ["k3_e1", *("skip" if (cin, stride) == (cout, 1) else "k3_e3" for _, cin, cout, stride in BLOCKS[1:])]
    assert cost_tables(space, table)["latency_ms"].smallest == pytest.approx(pixel_sum(smallest), rel=1e-12)
    assert (table.device, table.threads, table.batch, table.overhead_ms) == ("pixel1-proxylessnas", 1, 1, 0.0)


def test_other_numbers_of_classes_take_no_less_than_the_table_s_own() -> None:
    table, others = load_table(PIXEL), pixel_sum(CHOICES.split()) - means(PIXEL)["Logits-input:7x7x1280-output:1000"]
    for classes, times in ((10, 1.0), (1000, 1.0), (2500, 2.5)):
        predicted = table.predict(proxyless(num_classes=classes, widths="search").architecture(CHOICES.split()))
        assert predicted == pytest.approx(others + times * 0.3096415478615071, rel=1e-9)


def test_released_widths_are_not_in_the_table() -> None:
    table, space = load_table(PIXEL), proxyless()
    key = "expanded_conv-input:112x112x16-output:56x56x32-expand:3-kernel:5-stride:2-idskip:0"
    message = rf"'pixel1-proxylessnas' has no entry '{key}'; it covers feature maps of 224x224, 112x112, .* with 3, 16, 24, "
    with pytest.raises(LatencyError, match=message):
        table.predict(space.architecture(CHOICES.split()))
    with pytest.raises(LatencyError, match=r"choose a space of these sizes .* proxyless with widths='search' at 224x224"):
        cost_tables(proxyless((3, 192, 192), widths="search"), table)


@pytest.mark.parametrize("op", [MBConv(3, 1, keep_1x1=True), MBConv(3, 3, groups=2)])
def test_blocks_that_the_keys_cannot_tell_apart_are_refused(op: MBConv) -> None:
    keys = [f"expanded_conv-input:8x8x16-output:8x8x16-expand:{e}-kernel:3-stride:1-idskip:1" for e in (1, 3, 16, 48)]
    for more in ("", "-se:0-hs:0"):
        table = PhoneTable("phone", {key + more: 1.0 for key in keys})
        assert table.part_ms(part(MBConv(3, op.expand), 16, 16, 1, 8)) == 1.0
        with pytest.raises(LatencyError, match=f"has no blocks like '{op.describe()}'"):
            table.part_ms(part(op, 16, 16, 1, 8))


def part(op: object, cin: int, cout: int, stride: int, h: int) -> Part:
    return Part("site", op, cin, cout, stride, (h, h))


def test_once_for_all_counts_channels_and_knows_attention() -> None:
    table, entries = load_table(NOTE), means(NOTE)
    block = "expanded_conv-input:14x14x{}-output:14x14x{}-expand:{}-kernel:5-stride:1-idskip:{}-se:{}-hs:1"
    assert table.part_ms(part(MBConv(5, 6, act="hswish"), 96, 96, 1, 14)) == entries[block.format(96, 96, 576, 1, 0)]
    assert table.part_ms(part(MBConv(5, 3, True, "hswish"), 96, 136, 1, 14)) == entries[block.format(96, 136, 288, 0, 1)]
    first = "expanded_conv-input:112x112x24-output:112x112x24-expand:24-kernel:3-stride:1-idskip:1-se:0-hs:0"
    assert table.part_ms(part(MBConv(3, 1, act="relu"), 24, 24, 1, 112)) == entries[first]
    assert table.part_ms(part(Conv(3, "hswish"), 3, 24, 2, 224)) == entries["Conv-input:224x224x3-output:112x112x24"]
    with pytest.raises(LatencyError, match=r"has no entry 'Logits-input:1x1x1152-output:1000'"):
        table.part_ms(part(Classifier(), 1152, 1000, 1, 7))  # there, another layer stands between


def test_operations_that_a_phone_table_does_not_know() -> None:
    pixel, note = load_table(PIXEL), load_table(NOTE)
    assert pixel.part_ms(part(Skip(), 24, 24, 1, 56)) == 0.0
    with pytest.raises(LatencyError, match=r"knows no operation like 'skip 16->24 s2 112x112'"):
        pixel.part_ms(part(Skip(), 16, 24, 2, 112))
    with pytest.raises(LatencyError, match=r"has no blocks like 'mbconv_k3_e3_se_relu6'"):
        pixel.part_ms(part(MBConv(3, 3, se=True), 24, 24, 1, 56))
    with pytest.raises(LatencyError, match=r"has no blocks like 'mbconv_k3_e3_silu'"):
        note.part_ms(part(MBConv(3, 3, act="silu"), 32, 32, 1, 56))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1,", r"is not a latency table: it is neither our JSON nor YAML"),
        ("- 1\n- 2\n", r"is not a latency table: entries such as 'Conv-input:...' are expected"),
        ("", r"entries such as"),
        ("Conv: {count: 3}", r"is not a latency table: Conv.mean: "),
        ("Conv: {mean: -1.0}", r"is not a latency table: Conv.mean: "),
        ("Conv: {mean: .nan}", r"is not a latency table: Conv.mean: "),
        ("Conv: {mean: fast}", r"is not a latency table: Conv.mean: "),
    ],
)
def test_malformed_files(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "phone.yaml").write_text(text)
    with pytest.raises(LatencyError, match=message):
        load_table(tmp_path / "phone.yaml")


def test_a_table_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("Conv_1-input:7x7x8-output:7x7x16:\n  mean: 2\n")
    table = PhoneTable.load(tmp_path / "mine.yaml")
    assert table.part_ms(part(Conv(1), 8, 16, 1, 7)) == 2.0
    message = r"'mine' has no entry 'Conv_1-input:8x8x8-output:8x8x16'; it covers feature maps of 7x7 with 8, 16 channels"
    with pytest.raises(LatencyError, match=message):
        table.part_ms(part(Conv(1), 8, 16, 1, 8))


def test_a_search_says_which_classifier_it_goes_by(digits: ImageData, tmp_path: Path) -> None:
    ops = (MBConv(3, 3), MBConv(3, 6))
    space = chain_space("phone", (1, 8, 8), 10, stem=8, stem_stride=1, stages=[Stage(8, 2, 1, ops)], head=16)
    block = "expanded_conv-input:8x8x8-output:8x8x8-expand:{}-kernel:3-stride:1-idskip:1"
    rows = {"Conv-input:8x8x1-output:8x8x8": 1, block.format(3): 2, block.format(6): 3, "Conv_1-input:8x8x8-output:8x8x16": 4}

    def doubts(classes: int) -> tuple[str, ...]:
        last = {f"Logits-input:8x8x16-output:{classes}": 0.5}
        (tmp_path / "table.yaml").write_text("".join(f"{k}:\n  mean: {ms}\n" for k, ms in {**rows, **last}.items()))
        prepared = prepare(Request("random", space, {}, digits, ["latency_ms<=10.6"], tmp_path / "table.yaml"))
        assert prepared.latency.predict(space.architecture(["k3_e3", "k3_e6"])) == pytest.approx(1 + 2 + 3 + 4 + 0.5)
        return prepared.doubts

    assert doubts(10) == ()
    (doubt,) = doubts(1000)
    assert "'table' has no classifier of 10 classes; 0.5 ms are taken" in doubt
