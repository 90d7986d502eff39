"""HNAS in a chain whose right options are known: all are found, and no pruning drops one."""

import pytest

from planted_hnas import of_hnas


@pytest.mark.parametrize("seed", [0, 1])
def test_hnas_finds_what_is_planted_and_never_prunes_it(seed: int) -> None:
    found, chance, _ = of_hnas(seed)
    assert chance == 0.25
    assert found == 1.0
