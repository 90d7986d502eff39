"""What the methods share: evaluation with inherited weights, evolution under limits, ranking."""
