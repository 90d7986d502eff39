"""Export: a trained network as one file that other programs run, checked against PyTorch before it is written."""

from hiernas.export.formats import FORMATS, Exported, export

__all__ = ["FORMATS", "Exported", "export"]
