"""Train routers: records become examples, and ``PolarTrainer`` is ``Trainer`` with the right defaults."""

from __future__ import annotations

from .supervision import RouterCollator, menu_examples, router_examples, segment_examples
from .trainer import PolarTrainer

__all__ = ["PolarTrainer", "RouterCollator", "menu_examples", "router_examples", "segment_examples"]
