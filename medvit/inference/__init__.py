"""Sliding-window inference: streamed, reduced on the fly, and written straight into the study's own grid."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "backends": ["CompiledNetwork"],
        "cut_outs": ["CutOutInferer"],
        "inferer": ["Inference", "RestorationInferer", "StreamingWindowInferer"],
        "execution": ["Execution"],
        "predict": ["Flips", "InferenceReport", "lateral_flips"],
        "region": ["CoarseRegion", "ForegroundRegion", "Region"],
        "slices": ["SliceInferer", "SliceRestorer", "segment_slices", "slice_axis"],
        "through_plane": ["InPlaneRestorer", "ThroughPlaneRestorer"],
        "windows": ["Volume"],
    },
)
