"""Options and settings of the whole suite."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the wide sweeps")
    parser.addoption("--gpu", action="store_true", help="also run what needs an accelerator")


def pytest_configure(config: pytest.Config) -> None:
    # Tiny models run fastest on one thread, and workers of pytest-xdist share the cores.
    torch.set_num_threads(1)
    # How long an example takes depends on who else uses the machine.
    settings.register_profile("suite", deadline=None)
    settings.load_profile("suite")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    unwanted = {option for option in ("slow", "gpu") if not config.getoption(f"--{option}")}
    deselected = [item for item in items if unwanted & set(item.keywords)]
    if deselected:
        items[:] = [item for item in items if item not in deselected]
        config.hook.pytest_deselected(items=deselected)
