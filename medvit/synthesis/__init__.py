"""Images from label maps, so that networks can learn without patient images."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "body_phantom": ["BodyPhantom"],
        "low_dose_ct": ["Scan", "low_dose"],
        "restoration": ["LowDoseSlices", "NoisyMRSlices", "RestorationDataset"],
        "thick_slices": ["CoarsePixels", "RefinedPlanes", "ThickSlices"],
        "borders": ["BorderWeights"],
        "atlas": ["Anatomy", "HeadMap", "brain_anatomy", "read_head_map"],
        "dataset": [
            "SyntheticBatches",
            "SyntheticDataset",
            "SyntheticSlices",
            "SynthesizeImaged",
            "find_label_maps",
        ],
        "seeded": ["SeededDataset"],
        "generator": ["Synthesizer"],
        "heads": ["HeadBank"],
        "acquisition": ["normalise"],
        "settings": ["SynthesisSettings"],
    },
)
