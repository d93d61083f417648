"""Predicted label maps against references: pairs, scores, intervals and a page."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "images": ["measure_images"],
        "measure": ["Options", "StudyScores", "measure_pair"],
        "pairing": ["Pair", "Pairing", "find_pairs"],
        "run": ["Evaluation", "evaluate"],
        "structures": ["ScoredStructure", "read_regions"],
        "summary": ["Agreement", "Summary", "agreements", "summarise"],
    },
)
