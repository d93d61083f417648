"""The sliding window: streamed, reduced as it goes, and straight into the study's own grid."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "predict": ["Execution", "Flips", "InferenceReport", "lateral_flips"],
        "resample": ["resample_image"],
        "restore": ["RestorationInferer"],
        "slices": ["SliceInferer", "SliceRestorer", "slice_axis"],
        "slicewise": ["segment_slices"],
        "streaming": ["Inference", "StreamingWindowInferer"],
        "volume": ["Volume"],
    },
)
