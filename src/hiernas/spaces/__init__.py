"""Search spaces: functions that return a `SearchSpace`. All take `input_size` and `num_classes`."""

from hiernas.spaces.chain import Stage, chain_space
from hiernas.spaces.hnas import hnas_basic, hnas_large, proxyless
from hiernas.spaces.nasbench_macro import nasbench_macro
from hiernas.spaces.tiny import tiny

NAMES = ("hnas_basic", "hnas_large", "nasbench_macro", "proxyless", "tiny")  # those an architecture file may name

__all__ = ["NAMES", "Stage", "chain_space", "hnas_basic", "hnas_large", "nasbench_macro", "proxyless", "tiny"]
