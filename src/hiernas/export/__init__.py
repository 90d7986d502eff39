"""Export: a trained network as files that other programs run, checked against PyTorch before they are written."""

from hiernas.export.arch_def import timm_network
from hiernas.export.formats import FORMATS, SUFFIXES, Exported, export

__all__ = ["FORMATS", "SUFFIXES", "Exported", "export", "timm_network"]
