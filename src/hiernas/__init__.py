"""HierNAS."""
