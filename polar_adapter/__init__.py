"""Program-of-Layers adapters: per prompt, a router decides which layers of a frozen model to skip, keep or repeat."""

from .adapter import get_polar_model
from .config import PolarConfig
from .errors import AdapterError, ConfigError, PolarError, ProgramError, RecordsError, UnsupportedModelError
from .executor import apply_program, materialize
from .program import Op, Program, Segment
from .routers import RoutedProgram
from .version import __version__

__all__ = [
    "AdapterError",
    "ConfigError",
    "Op",
    "PolarConfig",
    "PolarError",
    "Program",
    "ProgramError",
    "RecordsError",
    "RoutedProgram",
    "Segment",
    "UnsupportedModelError",
    "__version__",
    "apply_program",
    "get_polar_model",
    "materialize",
]
