"""The module's logic, importable as 3D Slicer imports it: from the module's own folder."""

import sys
from pathlib import Path

MODULE = Path(__file__).parents[2] / "slicer" / "MedViT" / "MedViT"
sys.path.insert(0, str(MODULE))
