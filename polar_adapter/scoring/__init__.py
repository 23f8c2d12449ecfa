"""Scoring oracles: how good is this program for this question? Here search meets the model.

An oracle is an ``evaluate`` callable for :func:`polar_adapter.search.run_search`: (question, program) pairs in, scores
between 0 and 1 out.
"""

from __future__ import annotations

from .batches import GenerationBatches, PromptFan
from .oracles import GenerationOracle, LikelihoodOracle

__all__ = ["GenerationBatches", "GenerationOracle", "LikelihoodOracle", "PromptFan"]
