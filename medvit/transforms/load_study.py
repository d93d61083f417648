"""`LoadStudyd`: the strict study reader as the first step of any MONAI chain."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform

from medvit.studies.discover import only_study
from medvit.studies.formats import read_study
from medvit.studies.study import LoadedStudy, Study


class LoadStudyd(MapTransform):
    """Reads studies; the counterpart of MONAI's ``LoadImaged`` for files.

    Under each key a `Study`, or a path that holds exactly one, becomes a MetaTensor (C, X, Y, Z) float32
    with an affine to RAS+ mm; the `LoadedStudy` goes beside it as ``<key>_<postfix>``, for results to be
    written back on its grid. A list of paths gives one channel each. A `LoadedStudy` is not read again.

    Parameters
    ----------
    keys
        Keys of the studies.
    postfix
        Last part of the keys under which the studies go.
    allow_missing_keys
        Do not raise if a key is missing.
    options
        Further keyword arguments of `read_study`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        postfix: str = "study",
        allow_missing_keys: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.postfix = postfix
        self.options = options

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """`data` with each study read."""
        result = dict(data)
        for key in self.key_iterator(result):
            study = _as_study(result[key])
            if not isinstance(study, LoadedStudy):
                study = read_study(study, **self.options)
            result[key] = study.image
            result[f"{key}_{self.postfix}"] = study
        return result


def _as_study(value: Study | str | Path | Sequence[str | Path]) -> Study:
    if isinstance(value, Study):
        return value
    if not isinstance(value, str | Path):
        channels = [_as_study(path) for path in value]
        return Study(channels[0].id, tuple(series for study in channels for series in study.series))
    return only_study(value)
