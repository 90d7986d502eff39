"""Spaces, decisions and architectures against enumeration and the papers' counts."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hiernas import spaces
from hiernas.errors import SpaceError
from hiernas.networks.ops import MBConv
from hiernas.space import Architecture, SearchSpace
from hiernas.spaces import Stage, chain_space
from toy import toy_space


def test_size_is_the_number_of_distinct_architectures() -> None:
    space = toy_space()
    everything = list(space)
    assert space.size() == 12 == len(set(everything))
    assert [a.options for a in everything] == list(itertools.product(*(d.options for d in space.decisions)))


def test_sizes_of_the_papers() -> None:
    assert spaces.hnas_basic().size() == 3 * 6**6 * 7**15  # HNAS, section 4.1
    assert spaces.hnas_large().size() == 3 * 18**6 * 19**15
    assert spaces.proxyless().size() == 6**6 * 7**15
    assert spaces.nasbench_macro().size() == 3**8


def test_sampling_is_uniform_and_follows_its_generator() -> None:
    space = toy_space()
    samples = [space.sample(np.random.default_rng(3)) for _ in range(2)]
    assert samples[0] == samples[1]
    rng = np.random.default_rng(0)
    counts = dict.fromkeys(space, 0)
    for _ in range(6000):
        counts[space.sample(rng)] += 1
    chi_square = sum((n - 500) ** 2 / 500 for n in counts.values())
    assert chi_square < 31.3  # 99.9 % of chi-square with 11 degrees of freedom


@given(genes=st.tuples(st.integers(0, 2), st.integers(0, 3)))
@settings(max_examples=20, deadline=None)
def test_encode_and_decode_are_inverse(genes: tuple[int, int]) -> None:
    space = toy_space()
    assert tuple(space.encode(space.decode(genes))) == genes


def test_restriction_keeps_order_and_identity() -> None:
    space = toy_space()
    first, second = space.decisions
    smaller = space.restrict({second.name: [second.options[2], second.options[0]]})
    assert smaller.decisions[1].options == (second.options[0], second.options[2])
    assert set(smaller) < set(space)  # the same architectures, whichever space they come from
    assert smaller.restrict({first.name: first.options[:1]}).size() == 2
    with pytest.raises(SpaceError, match=r"no site 'stage9\.block1'"):
        space.restrict({"stage9.block1": ["skip"]})
    with pytest.raises(SpaceError, match="keep at least one"):
        space.restrict({first.name: []})


def test_architectures_from_names() -> None:
    space = spaces.nasbench_macro()
    listed = space.architecture(["identity", "k5_e6", "skip", "k3_e3", "k5_e6", "k3_e3", "skip", "skip"])
    assert listed == space.architecture(dict(zip(space.skeleton.site_names, listed.options, strict=True)))
    with pytest.raises(SpaceError, match="did you mean 'k5_e6'"):
        space.architecture(["k5_e9"] * 8)
    with pytest.raises(SpaceError, match="8 sites, but 7 choices"):
        space.architecture(["skip"] * 7)
    with pytest.raises(SpaceError, match="gene 3 is out of range"):
        space.decode([3] + [0] * 7)


def test_files_are_self_contained_for_our_spaces(tmp_path: Path) -> None:
    space = spaces.proxyless(input_size=(1, 20, 24), num_classes=7, widths="cpu")
    architecture = space.sample(np.random.default_rng(1))
    architecture.save(tmp_path / "a.json")
    loaded = Architecture.load(tmp_path / "a.json")
    assert loaded == architecture
    assert hash(loaded) == hash(architecture)
    assert loaded.skeleton.input_size == (1, 20, 24)


def test_files_of_a_users_space_need_the_space(tmp_path: Path) -> None:
    space = own_space()
    architecture = space.sample(np.random.default_rng(1))
    architecture.save(tmp_path / "a.json")
    with pytest.raises(SpaceError, match=r"unknown space 'mine'.*space of your own, pass it"):
        Architecture.load(tmp_path / "a.json")
    assert Architecture.load(tmp_path / "a.json", space) == architecture
    with pytest.raises(SpaceError, match="belongs to space 'mine'"):
        Architecture.load(tmp_path / "a.json", toy_space())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"is not an architecture file \(.*\); a search writes one, RUN/best\.json"),
        ("[]", "an object with 'space' and 'sites'"),
        ('{"format": 7, "space": "tiny", "sites": {}}', "architecture format 7"),
        ('{"format": 1, "space": "os.system", "sites": {}}', "unknown space 'os.system'"),
        ('{"format": 1, "space": "tiny", "arguments": {"colour": 1}, "sites": {}}', "no setting .space.colour.; known: none"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(SpaceError, match=message):
        Architecture.load(tmp_path / "a.json")


def test_several_weighted_options_round_trip() -> None:
    space = toy_space()
    first, second = space.decisions
    mixed = space.architecture([{first.options[1]: 0.25, first.options[0]: 0.75}, second.options[3]])
    assert mixed.choices[0] == ((first.options[0], 0.75), (first.options[1], 0.25))
    assert Architecture.from_json(json.loads(json.dumps(mixed.to_json())), space) == mixed
    with pytest.raises(SpaceError, match="keeps 2 options"):
        _ = mixed.options


def own_space() -> SearchSpace:
    stages = [Stage(8, 2, 1, (MBConv(3, 2), MBConv(3, 4)), skip=True)]
    return chain_space("mine", (3, 8, 8), 4, stem=8, stem_stride=1, stages=stages, head=16)


def test_tiny_space_never_shrinks_an_image_to_a_point() -> None:
    for side in (5, 8, 16, 28, 32, 48, 64, 96, 160, 224):
        _, options = spaces.tiny(input_size=(3, side, side)).skeleton.parts()
        (last,) = options[-1]["k3_e3"]
        assert 4 <= last.size[0] <= 8, side
    with pytest.raises(SpaceError, match="at least 2"):
        spaces.tiny(num_classes=1)
    with pytest.raises(SpaceError, match="input_size"):
        spaces.tiny(input_size=(3, 32))
