"""How the authors' classes and constructor arguments become our networks."""
