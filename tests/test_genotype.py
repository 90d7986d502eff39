"""Genotypes: DARTS' text and JSON in and out, and what is wrong with those that do not fit."""

import json
from collections import namedtuple

import numpy as np
import pytest

from hiernas.errors import SpaceError
from hiernas.networks.genotype import GENOTYPES, genotype, read_genotype
from hiernas.spaces import darts, hdas_cells, hdas_stages
from toy import stage_genotype

# as DARTS' own code prints it
DARTS_V1 = (
    "Genotype(normal=[('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 0), ('sep_conv_3x3', 1), "
    "('skip_connect', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 2)], normal_concat=[2, 3, 4, 5], "
    "reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 0), ('max_pool_3x3', 0), "
    "('skip_connect', 2), ('skip_connect', 2), ('avg_pool_3x3', 0)], reduce_concat=range(2, 6))"
)


def test_darts_own_text_is_read() -> None:
    assert read_genotype(DARTS_V1) == GENOTYPES["DARTS_V1"]
    normal = GENOTYPES["DARTS_V1"].graph("normal")
    assert normal[0] == (("sep_conv_3x3", 0), ("sep_conv_3x3", 1))
    assert normal[3] == (("sep_conv_3x3", 0), ("skip_connect", 2))


@pytest.mark.parametrize("name", GENOTYPES)
def test_text_and_json_round_trip(name: str) -> None:
    value = GENOTYPES[name]
    assert read_genotype(value.to_text()) == value
    assert read_genotype(json.loads(json.dumps(value.to_json()))) == value
    assert read_genotype(json.dumps(value.to_json())) == value
    assert genotype(name.lower().replace("_", "-")) == value


def test_the_text_is_what_darts_code_evaluates() -> None:
    fields = "normal normal_concat reduce reduce_concat"
    value = eval(GENOTYPES["PDARTS"].to_text(), {"Genotype": namedtuple("Genotype", fields), "range": range})
    assert value.normal[1] == ("dil_conv_3x3", 1)
    assert value.reduce[7] == ("dil_conv_5x5", 3)
    assert list(value.normal_concat) == [2, 3, 4, 5]


def test_architectures_give_their_genotype_back() -> None:
    rng = np.random.default_rng(0)
    for space in (darts(), hdas_cells()):
        for _ in range(5):
            architecture = space.sample(rng)
            found = space.skeleton.genotype(architecture)  # type: ignore[attr-defined]
            assert space.architecture(found.to_text()) == architecture
            assert space.architecture(found.to_json()) == architecture
    stages = hdas_stages()
    architecture = stages.sample(rng)
    assert stages.architecture(stage_genotype(architecture)) == architecture


def changed(node: int, edges: list) -> dict:
    value = GENOTYPES["DARTS_V2"].to_json()
    value["normal"][2 * (node - 2) : 2 * (node - 1)] = edges
    return value


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([["sep_conv_7x7", 0], ["skip_connect", 1]], r"edge from 0 to 3 of 'normal' cannot be 'sep_conv_7x7'; did you mean"),
        ([["skip_connect", 3], ["skip_connect", 1]], r"node 3 of 'normal' takes input 3; it can take 0 to 2"),
        ([["skip_connect", 1], ["sep_conv_3x3", 1]], r"node 3 of 'normal' has edges from \[1, 1\]"),
        ([["skip_connect", 1]], r"takes input|has edges from"),
    ],
)
def test_wrong_edges_are_named(edges: list, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        darts().architecture(changed(3, edges))


def test_wrong_texts_are_named() -> None:
    for text in ("Genotype(normal=", "hello", "Genotype([1])", "__import__('os').getcwd()", "Genotype(normal=open('x'))"):
        with pytest.raises(SpaceError, match=r"not a genotype|no list of"):
            read_genotype(text)
    with pytest.raises(SpaceError, match="there is no genotype 'PDART'; did you mean 'PDARTS'"):
        genotype("PDART")
    with pytest.raises(SpaceError, match=r"concatenates the nodes \[4, 5\]; this space concatenates \[2, 3, 4, 5\]"):
        darts().architecture({**GENOTYPES["PDARTS"].to_json(), "reduce_concat": [4, 5]})
    with pytest.raises(SpaceError, match="has no cell 'normal1'; its cells are normal, reduce"):
        darts().architecture(GENOTYPES["HC_DAS"].to_json())
    with pytest.raises(SpaceError, match="the genotype has no cell 'reduce'"):
        darts().architecture({"normal": GENOTYPES["PDARTS"].to_json()["normal"]})


def test_edges_that_are_none_are_read_and_written_as_they_stand() -> None:
    """SNAS' aggressive reduction, as its authors print it; their order of two inputs is not kept."""
    text = (
        "Genotype(normal=[('sep_conv_5x5', 0), ('skip_connect', 1), ('skip_connect', 0), ('skip_connect', 1), "
        "('dil_conv_5x5', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_5x5', 1)], normal_concat=range(2, 6), "
        "reduce=[('sep_conv_5x5', 0), ('none', 1), ('sep_conv_5x5', 0), ('none', 1), ('none', 1), ('none', 0), ('none', 1), "
        "('none', 0)], reduce_concat=range(2, 6))"
    )
    assert genotype(text) == GENOTYPES["SNAS_aggressive"]
    space = darts()
    architecture = space.architecture(text)
    chosen = dict(zip(space.skeleton.site_names, architecture.options, strict=True))
    assert [site for site in chosen if site.startswith("reduce") and chosen[site] != "none"] == ["reduce.0->2", "reduce.0->3"]
    found = space.skeleton.genotype(architecture)  # type: ignore[attr-defined]
    assert found == GENOTYPES["SNAS_aggressive"]
    assert space.architecture(found.to_text()) == space.architecture(found.to_json()) == architecture
    with pytest.raises(SpaceError, match="cell 'reduce' has no edge; one of its nodes needs one"):
        darts().architecture({**found.to_json(), "reduce": [["none", s] for _ in range(4) for s in (0, 1)]}).build()


def test_two_cells_stand_for_five() -> None:
    five = hdas_cells().architecture(GENOTYPES["PDARTS"])
    found = hdas_cells().skeleton.genotype(five)  # type: ignore[attr-defined]
    assert found.graph("normal1") == found.graph("normal3") == GENOTYPES["PDARTS"].graph("normal")


def stage_graphs(**changes: object) -> dict:
    space = hdas_stages()
    return stage_genotype(space.sample(np.random.default_rng(1)))["stage"] | changes


def test_wrong_stage_graphs_are_named() -> None:
    space, skip = hdas_stages(), "skip_connect"
    chain = [[[skip, n - 2], [skip, n - 1]] for n in range(2, 8)]
    far = [*chain[:3], [[skip, 0], [skip, 4]], *chain[4:]]
    assert space.architecture({"cell": "DARTS_V2", "stage": stage_graphs(DAG2=chain)}).options.count("none") == 15
    with pytest.raises(SpaceError, match="cell 5 of 'DAG2' reads state 0; with window 3"):
        space.architecture({"stage": stage_graphs(DAG2=far)})
    with pytest.raises(SpaceError, match="edge from 0 to 2 of 'DAG1' cannot be 'sep_conv_3x3'"):
        space.architecture({"stage": stage_graphs(DAG1=[[["sep_conv_3x3", 0], [skip, 1]], *chain[1:]])})
    with pytest.raises(SpaceError, match="'DAG3' has 5 cells; stage 3 of this space has 6"):
        space.architecture({"stage": stage_graphs(DAG3=chain[:5], DAG3_concat=[6, 7])})
    with pytest.raises(SpaceError, match=r"over the cell 'PDARTS'.*hdas_stages"):
        space.architecture({"cell": "PDARTS", "stage": stage_graphs()})
    with pytest.raises(SpaceError, match="lack 'DAG2'"):
        space.architecture({"stage": {"DAG1": chain}})
