"""Search spaces: functions that return a `SearchSpace`. All take `input_size` and `num_classes`."""

from hiernas.spaces.chain import Stage, chain_space, fit_strides
from hiernas.spaces.darts import darts
from hiernas.spaces.efficientnet import efficientnet
from hiernas.spaces.fbnet import fbnet, fbnet_enlarged
from hiernas.spaces.hdas import hdas_cells, hdas_stages
from hiernas.spaces.hnas import hnas_basic, hnas_large, proxyless
from hiernas.spaces.known import KNOWN, Known, known
from hiernas.spaces.mnasnet import mnasnet
from hiernas.spaces.mobilenetv2 import mobilenetv2
from hiernas.spaces.nasbench_macro import nasbench_macro
from hiernas.spaces.tiny import tiny

PAPERS = {  # the spaces an architecture file may name, and where they are from
    "darts": "DARTS, arXiv 1806.09055",
    "efficientnet": "EfficientNet, arXiv 1905.11946, in the form of HourNAS, arXiv 2005.14446v3",
    "fbnet": "FBNet, arXiv 1812.03443",
    "fbnet_enlarged": "HourNAS, arXiv 2005.14446v3",
    "hdas_cells": "H-DAS, arXiv 2101.04028v2",
    "hdas_stages": "H-DAS, arXiv 2101.04028v2",
    "hnas_basic": "HNAS, arXiv 2005.07564v1",
    "hnas_large": "HNAS, arXiv 2005.07564v1",
    "mnasnet": "MnasNet, arXiv 1807.11626, in the form of HourNAS, arXiv 2005.14446v3",
    "mobilenetv2": "MobileNetV2, arXiv 1801.04381; the choice of operations is ours",
    "nasbench_macro": "NAS-Bench-Macro, arXiv 2103.11922",
    "proxyless": "ProxylessNAS, arXiv 1812.00332",
    "tiny": "ours",
}
NAMES = tuple(PAPERS)

__all__ = [
    "KNOWN",
    "NAMES",
    "PAPERS",
    "Known",
    "Stage",
    "chain_space",
    "darts",
    "efficientnet",
    "fbnet",
    "fbnet_enlarged",
    "fit_strides",
    "hdas_cells",
    "hdas_stages",
    "hnas_basic",
    "hnas_large",
    "known",
    "mnasnet",
    "mobilenetv2",
    "nasbench_macro",
    "proxyless",
    "tiny",
]
