"""Documents of a trained bundle: metadata, a card, and a note on rights."""

from __future__ import annotations

import datetime
import json
from dataclasses import dataclass, field
from typing import Any

from medvit import __version__
from medvit.bundles import Bundle
from medvit.bundles.write import card, first_version
from medvit.studies.labels import parse_label_table
from medvit.training.plan import Plan


@dataclass(frozen=True)
class Outcome:
    """Result of a training.

    Parameters
    ----------
    carried
        Sentence on what was taken from the other bundle.
    score
        Mean validation Dice over the structures; `None` without a validation.
    structures
        Mean validation Dice of each structure.
    epoch, epochs
        Epoch of the weights, and number of trained epochs.
    date
        Date in ISO 8601.
    improving
        Whether the validation Dice was rising to the end.
    curves
        Whether ``docs/training.png`` and ``docs/training.csv`` show the training.
    cases
        Dice of each structure in each validation case, (cases, structures); NaN where one has none.
    chosen
        Relation of the weights to the validation cases, in a clause.
    """

    carried: str
    score: float | None = None
    structures: dict[str, float] = field(default_factory=dict)
    epoch: int = 0
    epochs: int = 0
    date: str = field(default_factory=lambda: datetime.datetime.now(datetime.UTC).date().isoformat())
    improving: bool = False
    curves: bool = False
    cases: list[list[float]] = field(default_factory=list)
    chosen: str = "by which the epoch was chosen"

    def quality(self, held_out: int) -> str:
        """The measured quality, in a clause."""
        if self.score is None:
            return "not measured: no case was kept apart"
        cases = f"{held_out} validation case{'s' if held_out != 1 else ''}"
        return f"mean Dice {self.score:.2f} over {len(self.structures)} structures on {cases}, {self.chosen}"


def metadata_section(plan: Plan, name: str, outcome: Outcome, weights_sha256: str) -> dict[str, Any]:
    """The metadata that the template ``segmentation`` leaves open."""
    table = parse_label_table(plan.labels)
    names = ", ".join(s.name for s in table)
    held_out = plan.cases["validation"]
    return {
        **first_version(
            f"trained on {plan.cases['training']} cases of {plan.task}, from {plan.base}"
        ),
        "name": f"{name} ({plan.architecture})",
        "task": f"Segmentation of {names}",
        "description": f"{plan.architecture} trained on {plan.task}, from {plan.base}; segments {names}.",
        "authors": "Those who trained it",
        "copyright": "Copyright of the weights: those who trained them; see LICENSE",
        "data_source": f"{plan.cases['training']} labelled cases of {plan.task}",
        "eval_metrics": _figures(outcome),
        "network_data_format#inputs#image#modality": plan.modality or "n/a",
        "network_data_format#inputs#image#spatial_shape": list(plan.window),
        "network_data_format#inputs#image#channel_def": {str(i): c for i, c in enumerate(plan.channels)},
        "medvit": {
            "labels": plan.labels,
            "modality": [plan.modality] if plan.modality else [],
            "quality": outcome.quality(held_out),
            "weights_sha256": weights_sha256,
            "trained": {
                "from": plan.base, "studies": plan.cases["training"], "held_out": held_out,
                "epochs": outcome.epochs, "dice": outcome.score, "date": outcome.date,
            },
        },
    }  # fmt: skip


def _figures(outcome: Outcome) -> dict[str, float]:
    if outcome.score is None:
        return {}
    each = {f"dice_{name.replace(' ', '_')}": round(value, 4) for name, value in outcome.structures.items()}
    return {"mean_dice_validation": round(outcome.score, 4), **each}


def readme(plan: Plan, name: str, outcome: Outcome, training: str) -> str:
    """Content of ``docs/README.md``: data, recipe, figures and limits; `training` is ``train.json``."""
    facts = {word: clause for word, clause in plan.lines() if word != "note"}
    facts["augmentation"] = _augmentation(training)
    facts["weights"] = outcome.carried
    facts["trained"] = (
        f"{outcome.epochs} epochs; the weights are those after epoch {outcome.epoch} (moving average)"
    )
    notes = "".join(f"- {note}\n" for note in plan.notes)
    return card(
        name,
        f"Trained with medvit {__version__} on {outcome.date}. "
        f"Run it: `medvit run ./{name} STUDY -o OUT --trust`",
        facts,
        f"## Quality\n\n{_measured(plan, outcome)}\n{_curves(name, outcome)}",
        f"""## Limits

- It has seen only the patients, the devices and the annotators of {plan.task}. For research use; not a
  medical device, and not for diagnosis or treatment.
{notes}""",
        f"""## Train on

`medvit train ./{name} MANIFEST -o BETTER --trust`, or the same recipe again:
`python -m monai.bundle run --config_file configs/train.json --manifest MANIFEST --dataset_dir FOLDER`
""",
    )


def _augmentation(training: str) -> str:
    """The random transforms of a training with their settings, in a clause."""
    transforms = json.loads(training)["train"]["preprocessing"]["transforms"]
    clauses = []
    for transform in transforms:
        settings = {k: v for k, v in transform.items() if k not in ("_target_", "keys") and "@" not in str(v)}
        given = ", ".join(f"{name} {value}" for name, value in settings.items())
        name = str(transform["_target_"]).rpartition(".")[2].removesuffix("d")
        clauses.append(f"{name} ({given})" if given else name)
    return "; ".join(clauses)


def _measured(plan: Plan, outcome: Outcome) -> str:
    if outcome.score is None:
        return "Not measured: no case was kept apart."
    figures = "".join(f"| {structure} | {dice:.3f} |\n" for structure, dice in outcome.structures.items())
    return f"""| structure | Dice |
| --- | --- |
{figures}| **mean** | {outcome.score:.3f} |

Measured on whole studies, on their own voxel grids, over the {plan.cases["validation"]} validation case(s).
The epoch was chosen by these same cases, so figures on unseen ones will be lower; a structure that a case
does not have is not counted in it."""


def _curves(name: str, outcome: Outcome) -> str:
    """The pictures of a training, and whether it had converged when it ended."""
    if not outcome.curves:
        return ""
    text = """
![Loss and validation Dice over the steps](training.png)

Every epoch is in `docs/training.csv`, and in `docs/events` for TensorBoard.
"""
    return text + (f"\n{go_on(name, outcome.epochs)}\n" if outcome.improving else "")


def go_on(name: str, epochs: int) -> str:
    """Advice for a training whose validation Dice rose until the end, or was measured only once."""
    command = f"`medvit train ./{name} MANIFEST -o BETTER --trust`"
    if epochs == 1:
        return f"Ended with its first validation, perhaps far from its best: continue with {command}."
    return f"Still improving at the end: continue with {command}."


def licence_note(plan: Plan, base: Bundle | None) -> str:
    """Content of ``LICENSE``; `base` is the bundle whose weights training started from."""
    origin = ""
    if base is not None:
        rights = base.metadata.get("copyright", "not stated")
        origin = f"""Training started from the bundle {base.name} ({rights}); where tensors were
taken from it (see docs/README.md), its licence applies to them as well.

"""
    return f"""The weights in models/model.pt were trained on {plan.task} and belong to those who trained
them, within the terms under which that data was obtained; ask these before you pass the weights on.

{origin}The configuration and documentation in this folder: Apache License 2.0.
"""
