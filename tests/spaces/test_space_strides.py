"""Strides that follow the image: every side from 5 to 256, against the rule worked out with whole numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hiernas import spaces
from hiernas.errors import SpaceError
from hiernas.networks.ops import MBConv
from hiernas.space import SearchSpace
from hiernas.spaces import Stage, chain_space, fit_strides

FIVE = (2, 1, 2, 2, 2, 1, 2, 1)  # stem and seven stages, five halvings
PUBLISHED: dict[str, tuple[int, ...]] = {
    "efficientnet": FIVE,
    "fbnet": FIVE,
    "fbnet_enlarged": FIVE,
    "hnas_basic": FIVE,
    "hnas_large": FIVE,
    "mnasnet": FIVE,
    "mobilenetv2": (2, 1, 2, 2, 2, 1, 2, 1),
    "nasbench_macro": (1, 2, 2, 2),
    "proxyless": FIVE,
}
CIFAR = (1, 1, 1, 2, 2, 1, 2, 1)  # HW-NAS-Bench's FBNet for CIFAR

ops = (MBConv(3, 1),)
STAGES = [Stage(8, 1, s, ops) for s in (1, 2, 2, 1, 2)]


def strides(space: SearchSpace) -> tuple[int, ...]:
    """Of the stem and of each stage's first block; all other blocks have 1."""
    first = [s.stride for s in space.skeleton.sites if s.name.endswith("block1")]
    assert all(s.stride == 1 for s in space.skeleton.sites if not s.name.endswith("block1"))
    return (space.skeleton.stem[0].stride, *first)


def expected(published: tuple[int, ...], side: int) -> tuple[int, ...]:
    """The last strides of 2 stay, as many as leave 4 pixels a side."""
    kept, left = [], side
    for stride in reversed(published):
        keep = stride == 2 and left // 2 >= 4
        left = left // 2 if keep else left
        kept.append(2 if keep else 1)
    return tuple(reversed(kept))


def last_side(space: SearchSpace) -> int:
    fixed, _ = space.skeleton.parts()
    return next(min(part.size) for part in fixed if part.name == "classifier")


@pytest.mark.parametrize("name", PUBLISHED)
def test_strides_follow_the_image(name: str) -> None:
    make: Callable[..., SearchSpace] = getattr(spaces, name)
    published = PUBLISHED[name]
    for side in range(5, 257):
        image = (3, side, side + side % 3)  # the shorter side decides
        assert strides(make(image)) == expected(published, side), side
        assert strides(make(image, stem="cifar")) == expected(published, min(side, 32)), side
    assert strides(make((3, 224, 224))) == strides(make((3, 224, 224), stem="imagenet")) == published


@pytest.mark.parametrize("name", PUBLISHED)
def test_no_feature_map_shrinks_to_a_point(name: str) -> None:
    make: Callable[..., SearchSpace] = getattr(spaces, name)
    halvings = sum(s == 2 for s in PUBLISHED[name])
    for side in (*range(5, 70), 127, 128, 129, 224, 256):
        image = (3, side, side)
        for stem in (None, "cifar"):
            assert last_side(make(image, stem=stem)) >= 4, (side, stem)
        if side > 2**halvings:
            assert last_side(make(image, stem="imagenet")) >= 2, side
        else:
            message = f"{halvings} times, too often for {side} pixels.*at least {2**halvings + 1} pixels"
            with pytest.raises(SpaceError, match=message):
                make(image, stem="imagenet")


def test_cifar_strides_are_those_of_hw_nas_bench() -> None:
    assert strides(spaces.fbnet((3, 32, 32), 100)) == CIFAR
    assert strides(spaces.fbnet((3, 224, 224), stem="cifar")) == CIFAR
    assert strides(spaces.nasbench_macro()) == (1, 2, 2, 2)


def test_heads_of_fbnet() -> None:
    def head(*arguments: object, **named: object) -> int:
        return spaces.fbnet(*arguments, **named).skeleton.head[0].cout

    assert [head((3, side, side)) for side in (224, 64, 63, 32, 16)] == [1984, 1984, 1504, 1504, 1504]
    assert head((3, 224, 224), stem="cifar") == 1504
    assert head(head=1504) == head((3, 32, 32), head=1504) == 1504


def test_arguments_reproduce_the_space_and_name_only_what_was_given() -> None:
    sizes = (("input_size", (3, 40, 48)), ("num_classes", 7))
    for name in PUBLISHED:
        make: Callable[..., SearchSpace] = getattr(spaces, name)
        widths = {"proxyless": (("widths", "mobile"),), "mnasnet": (("widths", "a1"),)}.get(name, ())
        assert make((3, 40, 48), 7).skeleton.arguments == sizes + widths
        given = make((3, 40, 48), 7, stem="cifar")
        assert given.skeleton.arguments == (*sizes, *widths, ("stem", "cifar"))
        assert make(**dict(given.skeleton.arguments)) == given
    with pytest.raises(TypeError):
        spaces.tiny(stem="cifar")  # it has a rule of its own


def test_the_rule_serves_other_stages_too() -> None:
    stem, stages = fit_strides(2, STAGES, (3, 20, 100))
    assert (stem, [s.stride for s in stages]) == (1, [1, 1, 2, 1, 2])
    assert [s.width for s in stages] == [8] * 5
    assert fit_strides(2, STAGES, (3, 2, 2)) == (1, [Stage(8, 1, 1, ops)] * 5)  # nothing is left to halve
    assert fit_strides(2, STAGES, (3, 17, 17), "imagenet") == (2, STAGES)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: spaces.fbnet(stem="cifra"), "unknown stem 'cifra'; did you mean 'cifar'"),
        (lambda: spaces.fbnet(head=0), "the head 0; both are whole numbers from 1"),
        (lambda: spaces.fbnet(head="wide"), "the head 'wide'"),
        (lambda: spaces.fbnet(stem=3), "unknown stem '3'"),
        (lambda: spaces.proxyless(widths=[1]), "unknown widths of proxyless"),
        (lambda: spaces.efficientnet(keep_1x1="yes"), "keep_1x1 is 'yes'; it is true or false"),
        (lambda: spaces.hnas_basic((3, 32)), "input_size is"),
        (lambda: spaces.mnasnet((3, 0, 32)), "input_size is"),
        (lambda: spaces.efficientnet(num_classes=1), "at least 2"),
        (lambda: spaces.mnasnet(widths="c1"), "unknown widths of mnasnet 'c1'; known: a1, b1"),
        (lambda: spaces.proxyless(widths="mobile14"), "did you mean 'mobile_14'"),
        (lambda: own([]), "at least one Stage"),
        (lambda: own([Stage(8, 0, 1, ops)]), "stage 1 is Stage.*repeats"),
        (lambda: own([Stage(8, 1, 1, ())]), "ops names an operation"),
        (lambda: own([Stage(8, 2, 1, ops)], published=(3,)), r"\(3,\) do not fit into stages of \(2,\) blocks"),
        (lambda: own([Stage(8, 2, 1, ops)], published=(1, 1)), "do not fit"),
    ],
)
def test_spaces_that_cannot_be(make: Callable[[], SearchSpace], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        make()


def own(stages: list[Stage], **named: object) -> SearchSpace:
    return chain_space("own", (3, 8, 8), 4, stem=8, stages=stages, head=16, **named)
