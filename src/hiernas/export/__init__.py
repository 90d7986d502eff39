"""Export: a trained network as files that other programs run, checked against PyTorch before they are written."""

from hiernas.export.formats import Exported, export
from hiernas.export.python import timm_network

__all__ = ["Exported", "export", "timm_network"]
