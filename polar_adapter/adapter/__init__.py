"""The PEFT adapter: routers inside a model, programs chosen per prompt, everything else as PEFT does it."""

from .registration import register
from .tuner import PolarModel, get_polar_model

register()

__all__ = ["PolarModel", "get_polar_model"]
