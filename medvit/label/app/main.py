"""The app that MONAI Label loads; its background tasks begin here too, so the stand-ins come first."""

from medvit.label import compat

compat.install()

from medvit.label.application import MedvitLabelApp  # noqa: E402

__all__ = ["MedvitLabelApp"]
