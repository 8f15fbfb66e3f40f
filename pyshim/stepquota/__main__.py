"""``python -m stepquota`` is the command ``stepquota``."""

from .cli import main

main()
