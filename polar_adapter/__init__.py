"""Program-of-Layers adapters: per prompt, a router decides which layers of a frozen model to skip, keep or repeat."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .adapter import get_polar_model
from .config import PolarConfig
from .errors import AdapterError, ConfigError, PolarError, ProgramError, RecordsError, UnsupportedModelError
from .executor import apply_program, materialize
from .program import Op, Program, Segment
from .routers import RoutedProgram
from .version import __version__

if TYPE_CHECKING:
    from .discover import mine_menu, search_programs
    from .evaluation import evaluate_programs, evaluate_router
    from .training import PolarTrainer

_LAZY = {
    "PolarTrainer": "training",
    "evaluate_programs": "evaluation",
    "evaluate_router": "evaluation",
    "mine_menu": "discover",
    "search_programs": "discover",
}


def __getattr__(name: str) -> Any:
    """Import what searching, training and evaluating need only when it is asked for."""
    if name in _LAZY:
        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "AdapterError",
    "ConfigError",
    "Op",
    "PolarConfig",
    "PolarError",
    "PolarTrainer",
    "Program",
    "ProgramError",
    "RecordsError",
    "RoutedProgram",
    "Segment",
    "UnsupportedModelError",
    "__version__",
    "apply_program",
    "evaluate_programs",
    "evaluate_router",
    "get_polar_model",
    "materialize",
    "mine_menu",
    "search_programs",
]
