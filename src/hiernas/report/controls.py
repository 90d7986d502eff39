"""What is said of a control: a network that no search found, and how it was come by."""

from __future__ import annotations

from hiernas.report import cells, figures, kit, units
from hiernas.report.cells import is_cells
from hiernas.report.kit import Values

NAMES = {
    "random": "A network drawn by chance",
    "random-k": "The best of some networks drawn by chance",
    "naswot": "A network that was drawn and put first by NASWOT",
    "plain": "The largest regular network",
}
LEADS = {
    "random": "A control: it was drawn evenly from those within the limits, and no other was looked at.",
    "random-k": "A control: {} drawn within the limits were trained briefly, the better half for longer, until one was left.",
    "naswot": "A control: networks drawn within the limits were put in order untrained, by NASWOT; there was no search.",
    "plain": "A control: the same operation wherever there is a choice, as far as the limits allow it.",
}


def words(result: Values) -> list[str]:
    """Lines for the terminal."""
    front = figures.words(result) if len(result["front"]) > 1 else []
    return front + (cells.found_words(result) if is_cells(result) else [])


def tell(run: kit.Run) -> kit.Told:
    """How it was come by, and the networks that were compared where there are several."""
    result, drawn = run.result, units.number(run.result["evaluated"], "network")
    drawings = cells.pictures(result) if is_cells(result) else []
    return kit.Told(
        lead=LEADS[result["details"]["control"]].format(drawn),
        found=[*drawings, *([figures.front(result)] if len(result["front"]) > 1 else [])],
    )
