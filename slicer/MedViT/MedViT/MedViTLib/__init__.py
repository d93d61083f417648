"""The logic of the MedViT module, for Python 3.9 with numpy: it runs without 3D Slicer as well."""
