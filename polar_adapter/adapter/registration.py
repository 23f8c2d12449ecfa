"""Make PEFT know the method, so that its own loaders build, save and load these adapters."""

from __future__ import annotations

from typing import Any

from peft import PeftType, mapping

from ..config import POLAR, PolarConfig
from .tuner import PolarModel


def register() -> None:
    """Enter the method in PEFT's tables; idempotent.

    ``peft.utils.register_peft_method`` refuses names that are not in the ``PeftType`` enum, so the tables are filled
    directly. Should PEFT come to define POLAR itself, its own entry stays.
    """
    if POLAR in PeftType.__members__:
        return
    tables: tuple[tuple[Any, Any], ...] = (
        (mapping.PEFT_TYPE_TO_CONFIG_MAPPING, PolarConfig),
        (mapping.PEFT_TYPE_TO_TUNER_MAPPING, PolarModel),
        (mapping.PEFT_TYPE_TO_PREFIX_MAPPING, PolarModel.prefix),
    )
    for table, entry in tables:
        table.setdefault(POLAR, entry)
