"""Routers as pure functions: tensors in, ranked programs out."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from polar_adapter import ConfigError, PolarConfig, Program
from polar_adapter.routers import ROUTERS, MenuRouter, RoutingOptions, SegmentRouter
from polar_adapter.routers.segment import NO_SEGMENT, segment_labels

D = 8
MENU = ["0-7", "0-3", "0-3x2 4-7", "0-1 4-7"]


def build(router_type="menu", **changes):
    config = PolarConfig(
        **{"router_type": router_type, "menu": MENU, "num_layers": D, "feature_size": 12, "router_dim": 16, **changes}
    )
    torch.manual_seed(0)
    return ROUTERS[router_type](config).eval()


def features(batch=3, tokens=5):
    return torch.randn(batch, tokens, 12), torch.ones(batch, tokens, dtype=torch.bool)


def test_the_paper_size_is_about_two_million_parameters():
    router = build("segment", num_layers=28, menu=None, feature_size=1024, router_dim=256)
    assert 2.0e6 < sum(parameter.numel() for parameter in router.parameters()) < 2.3e6


@pytest.mark.parametrize("router_type", ["menu", "segment"])
def test_padding_does_not_reach_the_logits(router_type):
    router = build(router_type)
    for parameter in router.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    tokens, mask = features()
    padded = torch.cat([tokens, torch.randn(3, 4, 12)], dim=1)
    padded_mask = torch.cat([mask, torch.zeros(3, 4, dtype=torch.bool)], dim=1)
    torch.testing.assert_close(router(padded, padded_mask), router(tokens, mask), atol=1e-5, rtol=1e-4)


def test_menu_loss_is_cross_entropy_over_what_was_tried():
    router = build()
    logits = torch.randn(2, 4)
    labels = torch.tensor([[1.0, 0.0, math.nan, 1.0], [0.0, 1.0, 1.0, 0.0]])
    first = F.binary_cross_entropy_with_logits(logits[0, [0, 1, 3]], labels[0, [0, 1, 3]])
    second = F.binary_cross_entropy_with_logits(logits[1], labels[1])
    torch.testing.assert_close(router.loss(logits, labels), (first + second) / 2)
    weights = torch.tensor([1.0, 3.0])
    torch.testing.assert_close(router.loss(logits, labels, weights), (first + 3 * second) / 4)
    with pytest.raises(ConfigError, match="the menu has 4"):
        router.loss(logits, labels[:, :2])


def test_menu_choice_maximises_probability_minus_price():
    router = build()
    logits = torch.tensor([[0.0, 0.1, 3.0, -2.0]])
    for cost in (0.0, 0.2, 0.5, 2.0):
        (ranked,) = router.rank(logits, 4, RoutingOptions(cost_weight=cost))
        expected = max(range(4), key=lambda i: logits[0, i].sigmoid().item() - cost * router.programs[i].depth / D)
        assert ranked[0].program == router.programs[expected]
        assert ranked[0].log_prob == pytest.approx(F.logsigmoid(logits[0, expected]).item())


def test_menu_margin_and_depth_limit():
    router = build()
    logits = torch.tensor([[0.0, -9.0, 0.8, -9.0]])
    gain = torch.sigmoid(torch.tensor(0.8)).item() - 0.5
    assert router.rank(logits, 1, RoutingOptions(identity_margin=gain - 0.01))[0][0].program.depth == 12
    assert router.rank(logits, 1, RoutingOptions(identity_margin=gain + 0.01))[0][0].program.is_identity
    assert router.rank(logits, 1, RoutingOptions(max_depth=6))[0][0].program.depth <= 6
    with pytest.raises(ConfigError, match="shortest of which runs 4"):
        router.rank(logits, 1, RoutingOptions(max_depth=3))


def test_menu_programs_are_described_by_what_they_do():
    router = build(menu=["0-7", "0-1x2 2-7", "0x2 1x2 2-7"])
    for parameter in router.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    logits = router(*features())
    assert not torch.allclose(logits[:, 1], logits[:, 2]), "same layer counts in another order must differ"
    grown = (*router.programs, Program.parse("0-3 5-7", D))
    router.with_menu(grown)
    again = router(*features())
    assert again.shape == (3, 4)
    with pytest.raises(ConfigError, match="identity"):
        router.with_menu(grown[1:])


def test_segment_labels_rebuild_the_program():
    program = Program.parse("0-2 3-4x2 7", D)
    labels = segment_labels(program, 4, 2)
    starts = [i for i, label in enumerate(labels) if label != NO_SEGMENT]
    path = [
        index for start, stop in itertools.pairwise([*starts, D]) for index in [*range(start, stop)] * labels[start]
    ]
    assert tuple(path) == program.path


def segment_logits(labels):
    """Logits that are certain of these labels."""
    logits = torch.zeros(1, D, 4)
    for layer, label in enumerate(labels):
        logits[0, layer, 0] = 5.0 if label != NO_SEGMENT else -5.0
        if label != NO_SEGMENT:
            logits[0, layer, 1 + label] = 5.0
    return logits


@pytest.mark.parametrize("text", ["0-7", "0-2 3-4x2 7", "2-5", "0x2 1-3 4-7x2"])
def test_segment_decoding_inverts_the_labels(text):
    router, program = build("segment"), Program.parse(text, D)
    logits = segment_logits(segment_labels(program, 4, 2))
    assert router.rank(logits, 1, RoutingOptions())[0][0].program == program
    assert router.loss(logits, torch.tensor([segment_labels(program, 4, 2)])) < 0.1


def test_segment_beam_is_exact():
    router = build("segment")
    torch.manual_seed(1)
    logits = torch.randn(1, D, 4)
    ranked = router.rank(logits, 6, RoutingOptions())[0]
    starts = [0]
    for layer in range(1, D):
        if logits[0, layer, 0] >= 0 or layer - starts[-1] == 4:
            starts.append(layer)
    log_probs = logits[0, :, 1:].log_softmax(-1)
    scores = {}
    for choice in itertools.product(range(3), repeat=len(starts)):
        path = [
            index
            for (start, stop), times in zip(itertools.pairwise([*starts, D]), choice, strict=True)
            for index in [*range(start, stop)] * times
        ]
        if path:
            score = sum(log_probs[start, times].item() for start, times in zip(starts, choice, strict=True))
            scores[tuple(path)] = max(score, scores.get(tuple(path), -math.inf))
    best = sorted(scores.values(), reverse=True)[:6]
    assert [entry.log_prob for entry in ranked] == pytest.approx(best, abs=1e-4)
    shallow = router.rank(logits, 3, RoutingOptions(max_depth=5))[0]
    assert all(entry.program.depth <= 5 for entry in shallow)


def test_segments_are_capped():
    router = build("segment")
    logits = torch.full((1, D, 4), -5.0)
    logits[..., 3] = 5.0  # repeat everything, no boundary anywhere
    (ranked,) = router.rank(logits, 1, RoutingOptions())
    assert str(ranked[0].program) == "0-3x2 4-7x2"


def test_untrained_routers_choose_the_standard_pass():
    for router_type in ("menu", "segment"):
        router = build(router_type)
        assert isinstance(router, (MenuRouter, SegmentRouter))
        for row in router.rank(router(*features(16)), 1, RoutingOptions(cost_weight=0.05)):
            assert row[0].program.is_identity


def test_static_has_nothing_to_train():
    router = build("static", menu=["0-3"])
    with pytest.raises(ConfigError, match="nothing to train"):
        router.loss(torch.zeros(1, 0), torch.zeros(1, 0))
