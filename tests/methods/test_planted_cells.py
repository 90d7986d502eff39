"""Searches of cells find what was planted, and not where their logits do not learn."""

from __future__ import annotations

from dataclasses import replace

from hiernas.search.alphas import AlphaSettings
from planted_cells import BY_HAND, SETTINGS, of_darts, of_hdas, of_hmnas

BRIEF = replace(SETTINGS, epochs=8, warmup_epochs=2)  # enough for seeds 0, 1 and 2
STILL = replace(SETTINGS, epochs=1, warmup_epochs=0, alpha=AlphaSettings(lr=1e-9), decided=0.0)


def test_darts_finds_the_operations_that_see() -> None:
    found, chance, _ = of_darts(0, replace(BY_HAND["darts"], search=BRIEF))
    assert chance < 0.3
    assert found > 0.75
    assert of_darts(0, replace(BY_HAND["darts"], search=STILL)).found < 0.5


def test_hdas_finds_the_edges_between_cells_that_see() -> None:
    found, chance, _ = of_hdas(0, 2, replace(BY_HAND["hdas-stages"], search=BRIEF))
    assert chance < 0.35
    assert found > 0.6
    assert of_hdas(0, 2, replace(BY_HAND["hdas-stages"], search=STILL)).found < 0.55


def test_hmnas_keeps_what_sees_and_drops_some_noise() -> None:
    kept, of_all, _ = of_hmnas(0)
    assert kept > 0.9
    assert of_all < kept - 0.1
