"""Search spaces: functions that return a `SearchSpace`. All take `input_size` and `num_classes`."""

from hiernas.names import SPACES
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

NAMES = tuple(SPACES)

__all__ = [
    "KNOWN",
    "NAMES",
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
