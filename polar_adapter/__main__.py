"""``python -m polar_adapter`` is the ``polar-adapter`` command."""

from .cli import main

main()
