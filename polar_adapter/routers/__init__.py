"""Routers: from a prompt's token features to ranked programs. They know no model and no executor.

To add one, write a module with a :class:`~polar_adapter.routers.base.Router` subclass and name it here.
"""

from .base import RoutedProgram, Router, RoutingOptions
from .menu import MenuRouter
from .segment import SegmentRouter
from .static import StaticRouter

ROUTERS: dict[str, type[Router]] = {"menu": MenuRouter, "segment": SegmentRouter, "static": StaticRouter}

__all__ = ["ROUTERS", "MenuRouter", "RoutedProgram", "Router", "RoutingOptions", "SegmentRouter", "StaticRouter"]
