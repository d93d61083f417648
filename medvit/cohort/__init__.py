"""Many studies: a ledger, local and distributed execution, resume."""
