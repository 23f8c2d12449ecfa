"""Every error this package raises on purpose.

    PolarError (ValueError)
    ├── ProgramError              a program that is malformed, or made for another depth
    ├── ConfigError               a PolarConfig that contradicts itself or the base model
    ├── UnsupportedModelError     a base model that cannot be served exactly, and why
    ├── AdapterError              an adapter folder that is missing, truncated or tampered with
    └── RecordsError              a search-records file that is broken or was made for another base

All are ``ValueError`` too, so that code written against PEFT and transformers catches them.
"""

from __future__ import annotations


class PolarError(ValueError):
    """Base of every error raised on purpose by polar_adapter."""


class ProgramError(PolarError):
    """A program is malformed, or does not fit the depth it is used at."""


class ConfigError(PolarError):
    """A configuration contradicts itself or the base model."""


class UnsupportedModelError(PolarError):
    """The base model cannot run programs exactly; the message says why."""


class AdapterError(PolarError):
    """An adapter folder is missing a file, truncated, or not what its config says."""


class RecordsError(PolarError):
    """Search records are broken or belong to another base model."""
