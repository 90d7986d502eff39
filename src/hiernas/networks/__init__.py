"""Candidate operations, cells, chains and stage graphs, and their supernets."""
