"""Studies as a dataset in which an unreadable study is a special item and does not end the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from monai.data import MetaTensor, ThreadDataLoader
from torch.utils.data import Dataset

from medvit.bundles.gate import Gate
from medvit.bundles.segmentation import prepare, read
from medvit.runs.outcome import StudyOutcome
from medvit.studies import Found, Study

if TYPE_CHECKING:
    import torch


@dataclass
class StudyItem:
    """A study on its way through a bundle.

    Parameters
    ----------
    study
        A `LoadedStudy`, unless reading failed.
    outcome
        Its outcome so far.
    image
        The preprocessed image; `None` when reading or preprocessing failed.
    """

    study: Study
    outcome: StudyOutcome
    image: MetaTensor | None = None


class StudyDataset(Dataset):
    """Reads and preprocesses studies; a failure is noted in its item.

    Parameters
    ----------
    data
        Result of `medvit.studies.find_studies`, or studies.
    transform
        The bundle's preprocessing, from ``{"image": Study}`` to a tensor under ``"image"``.
    gate
        Function that refuses studies for which the bundle is not made.
    """

    def __init__(
        self,
        data: Found | Sequence[Study],
        transform: Callable[[dict[str, Any]], dict[str, Any]],
        gate: Gate | None = None,
    ) -> None:
        self.found = data if isinstance(data, Found) else Found(tuple(data))
        self.transform = transform
        self.gate = gate

    def __len__(self) -> int:
        return len(self.found.studies)

    def __getitem__(self, index: int) -> StudyItem:
        return self.prepare(self.found.studies[index])

    def prepare(
        self, study: Study, outcome: StudyOutcome | None = None, device: torch.device | None = None
    ) -> StudyItem:
        """`study`, read and preprocessed as far as it goes; the result is noted in `outcome`.

        On a GPU it is preprocessed there.
        """
        item = StudyItem(study, outcome or StudyOutcome(study.id))
        try:
            with item.outcome.timed("read"):
                item.study = loaded = read(study, self.gate)
            with item.outcome.timed("preprocess"):
                item.image = prepare(loaded, self.transform, device)
        except Exception as error:
            item.outcome.fail(error)
        return item


def study_loader(dataset: StudyDataset) -> ThreadDataLoader:
    """The items of a dataset one by one; the next study is read by a thread while one is inferred."""
    source: Any = dataset  # MONAI's annotation names its own Dataset, but any will do
    return ThreadDataLoader(source, batch_size=1, num_workers=0, collate_fn=lambda items: items[0])
