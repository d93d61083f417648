"""The ``medvit`` command."""
