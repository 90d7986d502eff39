"""Published networks of our spaces by name, with the numbers their authors print.

known("fbnet-c")                                                # for ImageNet, as published
known("fbnet-c", input_size=(3, 32, 32), num_classes=10)        # its blocks, with strides for CIFAR
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from hiernas.errors import SpaceError, did_you_mean
from hiernas.networks.genotype import GENOTYPES
from hiernas.space import Architecture


@dataclass(frozen=True)
class Known:
    """A published network: where it stands in which space, and what is printed about it."""

    name: str
    space: str  # the function in `hiernas.spaces`
    arguments: tuple[tuple[str, Any], ...]  # of that function, beyond input_size and num_classes
    encoding: Any  # what `SearchSpace.architecture` reads
    published_params: float | None  # millions, as printed
    published_macs: float | None  # millions, as printed
    source: str  # of the encoding and of the printed numbers
    note: str = ""  # what explains a difference between the printed numbers and those we count
    published_latency: str | None = None  # as printed, with its device


PROXYLESS_MOBILE = (
    "k3_e1 k5_e3 k3_e3 skip skip k7_e3 k3_e3 k5_e3 k5_e3 k7_e6 k5_e3 "
    "k5_e3 k5_e3 k5_e6 k5_e3 k5_e3 k5_e3 k7_e6 k7_e6 k7_e3 k7_e3 k7_e6"
)
MOBILE_VISION = "facebookresearch/mobile-vision: graph under FBNet/models (encoding), first README (numbers)"
FOLDED = "Printed parameters are those of the released graph, where a batch norm is folded into one bias per channel. "

CHAINS = (
    Known(
        "proxyless-mobile", "proxyless", (("widths", "mobile"),), tuple(PROXYLESS_MOBILE.split()), 4.08, 320.4,
        "mit-han-lab/proxylessnas: proxyless_mobile.config, logs/imagenet_mobile_log.txt",
        "78 ms is the whole network on the phone. The phone's table has no entry for stage 2's 32 channels; with the search "
        "script's 24 its sum is 82.5 ms: operations measured one by one each pay a start that a network pays once.",
        published_latency="Pixel 1: 78 ms",
    ),
    Known(
        "proxyless-cpu", "proxyless", (("widths", "cpu"),),
        ("k3_e1", "k3_e6", "k3_e3", "k3_e3", "k3_e3", "k3_e6", "k3_e3", "k3_e3", "k5_e3", "k3_e6", "skip",
         "skip", "k3_e3", "k5_e6", "k3_e3", "k3_e3", "k3_e3", "k5_e6", "k5_e3", "k5_e3", "k3_e3", "k5_e6"),
        4.36, 439.2,
        "mit-han-lab/proxylessnas: proxyless_cpu.config, logs/imagenet_cpu_log.txt",
    ),
    Known(
        "proxyless-gpu", "proxyless", (("widths", "gpu"),),
        ("k3_e1", "k5_e3", "skip", "skip", "skip", "k7_e3", "skip", "skip", "k3_e3", "k7_e6", "skip",
         "skip", "k5_e3", "k5_e6", "skip", "k3_e3", "k5_e3", "k7_e6", "k7_e6", "k7_e6", "k5_e6", "k7_e6"),
        7.12, 465.3,
        "mit-han-lab/proxylessnas: proxyless_gpu.config (as copied in osmr/imgclsmob), logs/imagenet_gpu_log.txt",
        published_latency="GPU: 5.1 ms",
    ),
    Known(
        "proxyless-mobile-14", "proxyless", (("widths", "mobile_14"),), tuple(PROXYLESS_MOBILE.split()), 6.857568, None,
        "osmr/imgclsmob: pytorchcv/models/proxylessnas.py, after proxyless_mobile_14.config of mit-han-lab/proxylessnas",
        "The only printed MACs, 597.10 M, are by a counter that also counts batch norm (it gives 332.46 M for "
        "proxyless-mobile).",
    ),
    Known(
        "fbnet-a", "fbnet", (("head", 1504),),
        ("skip", "k3_e3", "k3_e1", "skip", "skip", "k5_e6", "k3_e3", "k5_e1", "k3_e3", "k5_e6", "k5_e3",
         "k3_e1_g2", "k5_e6", "k3_e6", "k3_e1_g2", "k5_e3", "k3_e1_g2", "k5_e6", "k5_e6", "k5_e3", "k5_e6", "k5_e6"),
        4.3, 249.4, MOBILE_VISION,
        FOLDED + "Later code of the same repository has two of the grouped blocks with kernel 5 (249.9 M) and leaves out the "
        "first 1x1 convolution at expansion 1 (244.5 M).",
        published_latency="Samsung S8: 14.1 ms (int8), 124.6 ms (fp32)",
    ),
    Known(
        "fbnet-b", "fbnet", (),
        ("k3_e1", "k3_e6", "k5_e1", "k3_e1", "k3_e1", "k5_e6", "k5_e3", "k3_e6", "k5_e6", "k5_e6", "k5_e1",
         "skip", "k5_e3", "k5_e6", "k3_e1", "k5_e1", "k5_e3", "k5_e6", "k5_e1", "k5_e6", "k5_e6", "k3_e6"),
        4.8, 295.6, MOBILE_VISION,
        FOLDED + "The released stage3.block4 has two 3x3 depthwise convolutions in place of the 5x5, which the space does not "
        "have: 1.05 M MACs fewer. Later code of the same repository has k5_e6 at stage4.block2 and leaves out the first 1x1 "
        "convolution at expansion 1 (291.0 M).",
        published_latency="Samsung S8: 17.3 ms (int8), 167.7 ms (fp32)",
    ),
    Known(
        "fbnet-c", "fbnet", (),
        ("k3_e1", "k3_e6", "skip", "k3_e1", "k3_e1", "k5_e6", "k5_e3", "k5_e6", "k3_e6", "k5_e6", "k5_e3",
         "k5_e6", "k5_e6", "k5_e6", "k5_e6", "k5_e6", "k5_e3", "k5_e6", "k5_e6", "k5_e6", "k5_e6", "k3_e6"),
        5.5, 383.0,
        "facebookresearch/mobile-vision: fbnet_modeldef_cls_fbnet.py (encoding; timm and HW-NAS-Bench have the same), first "
        "README (numbers)",
        FOLDED + "The released stage3.block3 and stage5.block2 have two 3x3 depthwise convolutions in place of the 5x5: 1.98 M "
        "MACs fewer. The paper's 375 M is reached by no variant.",
        published_latency="Samsung S8: 21.0 ms (int8), 241.8 ms (fp32)",
    ),
    Known(
        "mnasnet-a1", "mnasnet", (("widths", "a1"),),
        ("k3_e1", *["k3_e6"] * 2, *["k5_e3_se"] * 3, *["k3_e6"] * 4, *["k3_e6_se"] * 2, *["k5_e6_se"] * 3, "k3_e6"),
        3.9, 312.0,
        "tensorflow/tpu: models/official/mnasnet", published_latency="Pixel 1: 78 ms",
    ),
    Known(
        "mnasnet-b1", "mnasnet", (("widths", "b1"),),
        ("k3_e1", *["k3_e3"] * 3, *["k5_e3"] * 3, *["k5_e6"] * 3, *["k3_e6"] * 2, *["k5_e6"] * 4, "k3_e6"),
        4.383312, 310.0,
        "torchvision: mnasnet1_0 (numbers: num_params, and GFLOPS 0.31)",
    ),
    Known(
        "efficientnet-b0", "efficientnet", (),
        ("k3_e1_se", *["k3_e6_se"] * 2, *["k5_e6_se"] * 2, *["k3_e6_se"] * 3, *["k5_e6_se"] * 7, "k3_e6_se"),
        5.3, 390.0,
        "tensorflow/tpu: models/official/efficientnet; arXiv 1905.11946, Table 2 (numbers: 5.3M, 0.39B)",
    ),
    Known(
        "hournas-f", "efficientnet", (("keep_1x1", True),),
        ("k3_e1_se", "k5_e6_se", "k5_e1_se", "k5_e1_se", "k3_e1_se", "k5_e6_se", "k5_e1_se", "k3_e1_se", "k5_e1_se",
         "k5_e6_se", "k3_e6_se", "k3_e6_se", "k3_e6_se", "k5_e6_se", "k5_e3_se", "k5_e3_se", "k5_e3_se",
         "k5_e6_se", "k5_e6_se", "k3_e6_se", "k5_e6_se", "k5_e6_se"),
        5.3, 383.0,
        "mindspore-ai/models: research/cv/HourNAS/src/hournasnet.py (encoding, there an example of the notation); HourNAS "
        "(CVPR 2021), Table 1 (numbers)",
    ),
    Known(
        "mobilenetv2", "mobilenetv2", (),
        ("k3_e1", *["k3_e6"] * 16),
        3.504872, 300.0,
        "arXiv 1801.04381, Table 2; torchvision: mobilenet_v2 (numbers: num_params, and GFLOPS 0.30)",
        "The paper prints 3.4M parameters.",
    ),
)  # fmt: skip

COUNTERS = (
    "The printed MACs count two operations per batch-norm output and one per ReLU output, too; ours are of convolutions "
    "and linear layers."
)
UNEXPLAINED = "The printed MACs are reached by no counting rule we know of."
FIRST_ORDER = "The paper prints one size for the cells of both orders; it is that of the second."
SNAS = "The printed size is 0.24 M above what the released cell counts."
SNAS_SOURCE = "SNAS-Series/SNAS-Series: SNAS/genotypes.py; arXiv 1812.09926, Table 2 (numbers)"
AGGRESSIVE = (
    "Six edges of its reduction cell are none, and two of the cell's nodes have no edge: they are 0, and the second input's "
    "preprocessing is computed and read by nothing, as in the released network."
)
PDARTS_TABLE = "chenxin061/pdarts: Table1.png, Table2.png (numbers)"


def _cells(
    name: str,
    genotype: str,
    cifar: float,
    imagenet: tuple[float, float] | None,
    source: str,
    note: str = "",
    cifar_note: str = "",
) -> tuple[Known, ...]:
    """A published genotype as the CIFAR-10 network of 20 cells, and as the ImageNet network of 14."""
    encoding = GENOTYPES[genotype]
    small = Known(name, "darts", (), encoding, cifar, None, source, cifar_note)
    size = (("input_size", (3, 224, 224)), ("num_classes", 1000))
    if imagenet is None:
        return (small,)
    return small, Known(f"{name}-imagenet", "darts", size, encoding, *imagenet, source, note)


HS_DAS = {  # msight-tech/research-hdas; the edges into the cells of the three stages
    "DAG1": "skip 0, skip 1 | skip 0, skip 1 | skip 1, max 2 | max 2, skip 4 | max 3, skip 5 | max 4, skip 6",
    "DAG2": "max 0, max 1 | skip 0, skip 1 | skip 1, skip 2 | max 2, skip 3 | skip 3, max 5 | avg 4, skip 6",
    "DAG3": "skip 0, skip 1 | skip 1, skip 2 | skip 2, skip 3 | max 2, skip 3 | max 3, skip 5 | max 4, max 5",
}


def _stages(cell: str) -> dict[str, Any]:
    long = {"skip": "skip_connect", "max": "max_pool_3x3", "avg": "avg_pool_3x3"}
    graphs = {}
    for name, text in HS_DAS.items():
        nodes = [[edge.split() for edge in node.split(",")] for node in text.split("|")]
        graphs[name] = [[[long[op], int(source)] for op, source in node] for node in nodes]
    return {"cell": cell, "stage": graphs}


CELLS = (
    *_cells("darts-v1", "DARTS_V1", 3.3, None, "quark0/darts; arXiv 1806.09055, Table 1 (numbers)", cifar_note=FIRST_ORDER),
    *_cells("darts-v2", "DARTS_V2", 3.3, (4.7, 574), f"quark0/darts; {PDARTS_TABLE}", UNEXPLAINED),
    *_cells("snas-mild", "SNAS_mild", 2.9, (4.3, 522), f"SNAS-Series/SNAS-Series; {PDARTS_TABLE}", UNEXPLAINED, SNAS),
    *_cells(
        "snas-moderate", "SNAS_moderate", 2.8, None, SNAS_SOURCE,
        cifar_note="Of the two released forms that with two inputs at each node.",
    ),
    *_cells("snas-aggressive", "SNAS_aggressive", 2.3, None, SNAS_SOURCE, cifar_note=AGGRESSIVE),
    *_cells("pdarts", "PDARTS", 3.4, (4.9, 557), PDARTS_TABLE, COUNTERS),
    *_cells("pcdarts-cifar", "PC_DARTS_cifar", 3.6, (5.3, 586), "yuhuixu1993/PC-DARTS: README", COUNTERS),
    *_cells("pcdarts", "PC_DARTS_image", 3.6, (5.3, 597), "yuhuixu1993/PC-DARTS: README", COUNTERS)[1:],
    *_cells("gdas", "GDAS_V1", 3.4, None, "D-X-Y/AutoDL-Projects; arXiv 1910.04465 (numbers)"),
    Known(
        "gdas-imagenet", "darts", (("input_size", (3, 224, 224)), ("num_classes", 1000), ("channels", 50)),
        GENOTYPES["GDAS_V1"], 5.3, 581, "D-X-Y/AutoDL-Projects; arXiv 1910.04465 (numbers)",
    ),
    Known(
        "hdas-cells", "hdas_cells", (("channels", 28),), GENOTYPES["HC_DAS"], 2.3, None,
        "msight-tech/research-hdas; arXiv 2101.04028v2, Table 1 (numbers)",
        "The printed size is that of 28 channels; with DARTS' 36 the network has 3.71 M parameters.",
    ),
    Known(
        "hdas-cells-imagenet", "hdas_cells", (("input_size", (3, 224, 224)), ("num_classes", 1000)), GENOTYPES["HC_DAS"],
        5.0, 578, "msight-tech/research-hdas; arXiv 2101.04028v2, Table 2 (numbers)",
        "The printed size is 0.18 M below ours at DARTS' 48 channels; the multiply-adds agree.",
    ),
    Known(
        "hdas-stages", "hdas_stages", (("channels", 32), ("cell", "PDARTS")), _stages("PDARTS"), 3.5, None,
        "msight-tech/research-hdas; arXiv 2101.04028v2, Table 1, with the cell of P-DARTS (numbers)",
        "The printed size fits 32 channels best (3.57 M); with DARTS' 36 the network has 4.48 M parameters.",
    ),
)  # fmt: skip

KNOWN: dict[str, Known] = {network.name: network for network in (*CHAINS, *CELLS)}


def known(
    name: str, input_size: tuple[int, int, int] | None = None, num_classes: int | None = None, **arguments: Any
) -> Architecture:
    """A published network by name, as published or for other images and classes. `KNOWN` lists them.

    `arguments`: of its space, such as channels=16. Raises `SpaceError` for an unknown name, and for what its space
    does not take.
    """
    if name not in KNOWN:
        raise SpaceError(f"there is no known network '{name}'; {did_you_mean(name, KNOWN)}")
    network = KNOWN[name]
    sizes = {"input_size": input_size, "num_classes": num_classes}
    arguments = dict(network.arguments) | {key: value for key, value in sizes.items() if value is not None} | arguments
    files = importlib.import_module("hiernas.spaces.files")  # which looks among all spaces, these included
    architecture: Architecture = files.known_space(network.space, arguments, source=name).architecture(network.encoding)
    return architecture
