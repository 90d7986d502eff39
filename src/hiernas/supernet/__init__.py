"""Supernets: modules that hold the weights of all options of a space."""
