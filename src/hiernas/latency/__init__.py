"""Measuring devices: how long the operations of a space and whole networks take."""
