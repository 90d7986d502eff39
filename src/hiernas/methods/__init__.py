"""The search methods: one paper, one file."""
