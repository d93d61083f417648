"""Clinical metrics, in millimetres and millilitres."""
