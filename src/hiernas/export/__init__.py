"""Export: a trained network as files that other programs run, checked against PyTorch before they are written."""

from hiernas.export.arch_def import timm_network
from hiernas.export.formats import Exported, export

__all__ = ["Exported", "export", "timm_network"]
