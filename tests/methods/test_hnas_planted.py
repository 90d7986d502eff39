"""HNAS in a chain whose right options are known: all are found, and no pruning drops one."""

from dataclasses import replace
from functools import partial

import pytest

from hiernas.methods.baselines import one_shot
from planted import residual_chain
from planted_hnas import CONFIG, of_hnas


@pytest.mark.parametrize("seed", [0, 1])
def test_hnas_finds_what_is_planted_and_never_prunes_it(seed: int) -> None:
    found, chance, _ = of_hnas(seed)
    assert chance == 0.25
    assert found == 1.0


def test_a_predictor_finds_in_residual_blocks_what_the_luckiest_candidate_does_not_show() -> None:
    """Four blocks of four options: by chance three are right in 5 % of networks."""
    config = replace(CONFIG, predictor="linear", population=24, generations=4)
    drawn = partial(one_shot, algorithm="random")
    assert of_hnas(0, residual_chain, 4, 4, drawn, config).found >= 0.75
