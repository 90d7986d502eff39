"""Data sets: `load_data` turns a folder, a table, a hub name or a torch data set into images, labels and splits."""

from hiernas.data.batches import augment, epoch_order, in_order, normalise
from hiernas.data.load import load_data
from hiernas.data.split import ImageData, Images, Split

__all__ = ["ImageData", "Images", "Split", "augment", "epoch_order", "in_order", "load_data", "normalise"]
