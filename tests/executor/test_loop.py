"""Reading a forward pass: what means more than a cache slot is found, what does not is left in peace."""

from __future__ import annotations

import types

import pytest
import torch
from torch import nn

from polar_adapter.executor.loop import read_loop
from polar_adapter.executor.syntax import ReadingError

DEPTH = 3


class Layer(nn.Module):
    """A layer that uses its position as a slot, in all the usual ways."""

    def __init__(self, layer_idx=0):
        super().__init__()
        self.layer_idx = layer_idx
        self.first = layer_idx == 0  # a setting that travels with the layer
        self.config = types.SimpleNamespace(layer_types=["full"] * DEPTH)
        self.linear = nn.Linear(2, 2)

    def forward(self, hidden_states, past_key_values=None, **kwargs):
        if self.layer_idx is None:
            raise ValueError(f"layer {self.layer_idx} does not know its slot")
        if past_key_values is not None:
            past_key_values.update(hidden_states, layer_idx=self.layer_idx)
            hidden_states = past_key_values.layers[self.layer_idx]
        return self.project(hidden_states, self.config.layer_types[self.layer_idx])

    def project(self, hidden_states, kind):
        return self.linear(hidden_states)


class Owner(nn.Module):
    """A module that loops over layers; subclasses write the loop."""

    def __init__(self, layer_class=Layer):
        super().__init__()
        self.config = types.SimpleNamespace(layer_types=["full"] * DEPTH, num_hidden_layers=DEPTH)
        self.last = DEPTH
        self.threshold = 1
        self.scales = [1.0] * DEPTH
        self.layers = nn.ModuleList(layer_class(index) for index in range(DEPTH))


class Plain(Owner):
    def forward(self, hidden_states, past_key_values=None, output_hidden_states=False):
        states = ()
        for layer in self.layers[: self.config.num_hidden_layers]:
            if output_hidden_states:
                states = (*states, hidden_states)
            hidden_states = layer(hidden_states, past_key_values=past_key_values)
        return hidden_states, states


class PerLayerList(Owner):
    def forward(self, hidden_states, masks=None):
        for i, layer in enumerate(self.layers):
            kind = self.config.layer_types[i]
            outputs = layer(hidden_states, mask=masks[kind])
            hidden_states = outputs[0]
        return hidden_states


class InAMethod(Owner):
    def forward(self, hidden_states):
        return self.run(hidden_states)

    def run(self, hidden_states):
        for layer in self.layers:
            hidden_states = layer(hidden_states)
        return hidden_states


class TestLeftInPeace:
    @pytest.mark.parametrize("owner", [Plain, PerLayerList, InAMethod])
    def test_usual_loops(self, owner):
        loop = read_loop(owner(), "layers", DEPTH)
        assert (loop.depth_attributes, loop.forbidden_inputs, loop.carried) == ((), (), ())

    def test_positions_used_only_when_layers_are_built(self):
        class Scaled(Layer):
            def __init__(self, layer_idx):
                super().__init__(layer_idx)
                self.scale = self.make_scale()

            def make_scale(self):
                return 1 / (self.layer_idx + 1)

            def forward(self, hidden_states):
                return self.linear(hidden_states) * self.scale

        read_loop(Plain(Scaled), "layers", DEPTH)

    def test_buffers_and_submodules_that_move_to_a_device(self):
        class Moving(Layer):
            def __init__(self, layer_idx):
                super().__init__(layer_idx)
                self.register_buffer("table", torch.ones(2))

            def forward(self, hidden_states):
                self.table = self.table.to(hidden_states.device)
                self.linear = self.linear.to(hidden_states.dtype)
                self.seen = hidden_states.dtype
                return self.linear(hidden_states) * self.table

        read_loop(Plain(Moving), "layers", DEPTH)

    def test_modules_from_elsewhere(self):
        """Quantised layers keep notes on themselves; they know of no position."""
        counting = types.new_class("Counting", (nn.Linear,))
        counting.__module__ = "bitsandbytes.nn"
        counting.forward = _counting_forward
        owner = Plain()
        owner.layers[0].linear = counting(2, 2)
        read_loop(owner, "layers", DEPTH)


def _counting_forward(self, hidden_states):
    self.calls = self.calls + 1
    return hidden_states


class Arithmetic(Owner):
    def forward(self, hidden_states):
        for i, layer in enumerate(self.layers):
            hidden_states = layer(hidden_states)
            if i % 2:
                hidden_states = hidden_states / 2
        return hidden_states


class Membership(Owner):
    def forward(self, hidden_states):
        for i, layer in enumerate(self.layers):
            hidden_states = layer(hidden_states, cross=i in self.scales)
        return hidden_states


class OwnList(Owner):
    def forward(self, hidden_states):
        for i, layer in enumerate(self.layers):
            hidden_states = layer(hidden_states) * self.scales[i]
        return hidden_states


class UnknownConfigList(Owner):
    def forward(self, hidden_states):
        for i, layer in enumerate(self.layers):
            hidden_states = layer(hidden_states, self.config.secrets[i])
        return hidden_states


class GivenToAFunction(Owner):
    def forward(self, hidden_states):
        for i, layer in enumerate(self.layers):
            hidden_states = layer(hidden_states, self.mask_of(i))
        return hidden_states

    def mask_of(self, i):
        return self.scales[i]


class Counted(Owner):
    def forward(self, hidden_states):
        position = 0
        for layer in self.layers:
            hidden_states = layer(hidden_states, self.scales[position])
            position += 1  # noqa: SIM113 - what enumerate() is for, and what some models do
        return hidden_states


class OtherAttribute(Owner):
    def forward(self, hidden_states):
        for i, layer in enumerate(self.layers):
            if i == self.threshold:
                hidden_states = hidden_states * 2
            hidden_states = layer(hidden_states)
        return hidden_states


class ByNumber(Owner):
    def forward(self, hidden_states):
        for i in range(len(self.layers)):
            hidden_states = self.layers[i](hidden_states)
        return hidden_states


class Zipped(Owner):
    def forward(self, hidden_states):
        for layer, scale in zip(self.layers, self.scales, strict=True):
            hidden_states = layer(hidden_states) * scale
        return hidden_states


class HalfOfThem(Owner):
    def forward(self, hidden_states):
        for layer in self.layers[self.threshold :]:
            hidden_states = layer(hidden_states)
        return hidden_states


class CountedFromOne(Owner):
    def forward(self, hidden_states):
        for i, layer in enumerate(self.layers, start=1):
            hidden_states = layer(hidden_states, self.config.layer_types[i])
        return hidden_states


class NoLoop(Owner):
    def forward(self, hidden_states):
        return self.layers[0](hidden_states)


@pytest.mark.parametrize(
    ("owner", "reason"),
    [
        (Arithmetic, "position of a layer in `i % 2`"),
        (Membership, "position of a layer in `i in self.scales`"),
        (OwnList, r"position of a layer in `self.scales\[i\]`"),
        (UnknownConfigList, r"position of a layer in `self.config.secrets\[i\]`"),
        (GivenToAFunction, r"position of a layer in `self.mask_of\(i\)`"),
        (Counted, r"position of a layer in `self.scales\[position\]`"),
        (OtherAttribute, "position of a layer in `i == self.threshold`"),
        (ByNumber, r"picks layers by position, `self.layers\[i\]`"),
        (Zipped, "does not simply loop over its layers: `zip"),
        (HalfOfThem, "picks layers by position"),
        (CountedFromOne, "does not simply loop"),
        (NoLoop, "does not loop over `self.layers`"),
    ],
)
def test_positions_with_a_meaning_are_found_in_the_loop(owner, reason):
    with pytest.raises(ReadingError, match=reason):
        read_loop(owner(), "layers", DEPTH)


class ScalesByPosition(Layer):
    def forward(self, hidden_states):
        return self.linear(hidden_states) / (self.layer_idx + 1)


class KnowsItIsFirst(Layer):
    def forward(self, hidden_states):
        return self.linear(hidden_states) if self.layer_idx == 0 else hidden_states


class LooksItUp(Layer):
    def forward(self, hidden_states, layer_idx):
        return self.linear(hidden_states) * self.table[layer_idx]


class TellsAnyone(Layer):
    def forward(self, hidden_states):
        return torch.mul(hidden_states, float(self.layer_idx))


class Remembers(Layer):
    def forward(self, hidden_states):
        before = self.state
        self.state = hidden_states
        return hidden_states + before


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (ScalesByPosition, r"ScalesByPosition uses its own position in `self.layer_idx \+ 1`"),
        (KnowsItIsFirst, "KnowsItIsFirst uses its own position in `self.layer_idx == 0`"),
        (LooksItUp, r"LooksItUp uses its own position in `self.table\[layer_idx\]`"),
        (TellsAnyone, r"TellsAnyone uses its own position in `float\(self.layer_idx\)`"),
        (Remembers, "Remembers keeps `state` on itself"),
    ],
)
def test_positions_with_a_meaning_are_found_in_the_layers(layer, reason):
    with pytest.raises(ReadingError, match=reason):
        read_loop(Plain(layer), "layers", DEPTH)


class ComparedWithDepth(Owner):
    def forward(self, hidden_states, cache=None):
        for i, layer in enumerate(self.layers):
            if i == self.last:
                hidden_states, cache = hidden_states[:, -1:], None
            hidden_states = layer(hidden_states, cache=cache)
        return hidden_states


def test_attributes_that_hold_the_depth():
    loop = read_loop(ComparedWithDepth(), "layers", DEPTH)
    assert loop.depth_attributes == ("last",)
    assert loop.carried == ()  # set at one position only, which is never reached
    with pytest.raises(ReadingError, match=r"i == self\.last"):
        read_loop(ComparedWithDepth(), "layers", DEPTH + 1)


class InputByPosition(Owner):
    def forward(self, hidden_states, extra=None, features=None):
        for i, layer in enumerate(self.layers):
            hidden_states = layer(hidden_states, extra[:, i] if extra is not None else None)
            if features is not None and i in range(len(features)):
                hidden_states = hidden_states + features[i]
        return hidden_states


def test_inputs_that_belong_to_layers_by_position():
    assert read_loop(InputByPosition(), "layers", DEPTH).forbidden_inputs == ("extra", "features")


class Carries(Owner):
    def forward(self, hidden_states, mask=None):
        bias = chosen = None
        for layer in self.layers:
            fresh = mask
            hidden_states, bias, chosen = layer(hidden_states, fresh, bias, chosen=chosen)
        return hidden_states


class CarriesThroughAnother(Owner):
    def forward(self, hidden_states):
        blocks = [hidden_states]
        for layer in self.layers:
            new = layer(hidden_states, torch.stack(blocks))
            blocks = [*blocks, hidden_states]
            hidden_states = new
        return hidden_states


@pytest.mark.parametrize(("owner", "carried"), [(Carries, ("bias", "chosen")), (CarriesThroughAnother, ("blocks",))])
def test_what_layers_hand_on(owner, carried):
    assert read_loop(owner(), "layers", DEPTH).carried == carried


def test_code_without_source_is_refused():
    class Hidden(Owner):
        pass

    exec("def forward(self, x):\n    for layer in self.layers:\n        x = layer(x)\n    return x", scope := {})
    Hidden.forward = scope["forward"]
    with pytest.raises(ReadingError, match=r"source of .*forward.* cannot be read"):
        read_loop(Hidden(), "layers", DEPTH)
