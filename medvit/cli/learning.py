"""`medvit train`, `pretrain` and `label`: bundles that learn from your own studies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from medvit.cli.options import (
    Amp,
    Backend,
    Device,
    Output,
    Spacing,
    Studies,
    Tf32,
    Trust,
    WindowSize,
)
from medvit.cli.talk import Answer, answering
from medvit.errors import MedvitError
from medvit.runs.options import checked_images, checked_manifest, checked_output_file


@answering
def train(
    base: Annotated[
        str,
        typer.Argument(
            help="Name of an installed bundle, a bundle folder with --trust, or a network: SegFormer3D, "
            "SwinUNETR, TransUNet, DFormer, MambaClinix, XLSTMUNet, ParaTransCNN, CSwinUNet, CSwinUNETR, ViT "
            "or UNETR; HAT or DRSformer with --degrade.",
            metavar="BUNDLE|NETWORK",
        ),
    ],
    manifest: Annotated[
        str,
        typer.Argument(
            help="Manifest (YAML or JSON), or the dataset.json of MSD or nnU-Net.",
            metavar="MANIFEST",
            callback=checked_manifest,
        ),
    ],
    output: Output,
    data: Annotated[
        Path | None, typer.Option(help="Folder of the data set. Default: the folder of the manifest.")
    ] = None,
    spacing: Spacing = None,
    patch_size: WindowSize = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Largest number of epochs. Default: 100, or 20 for a restorer.")
    ] = None,
    epoch_length: Annotated[
        int | None, typer.Option(min=1, help="Number of optimiser steps in an epoch.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Time for the whole training, used in full; instead of --epochs.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Number of windows in a step. Default: depends on their size.")
    ] = None,
    learning_rate: Annotated[float, typer.Option(help="Highest learning rate of AdamW.")] = 1e-3,
    size: Annotated[
        str | None, typer.Option(help="Size of a network by name: tiny, small (the default) or base.")
    ] = None,
    from_scratch: Annotated[
        bool, typer.Option(help="Start from random weights instead of the bundle's.")
    ] = False,
    val_fraction: Annotated[float, typer.Option(help="Share of the patients to validate on.")] = 0.2,
    folds: Annotated[
        int, typer.Option(min=0, help="Number of folds: one bundle for each, and their ensemble.")
    ] = 0,
    fold: Annotated[int | None, typer.Option(min=0, help="Train only this fold.")] = None,
    patience: Annotated[
        int,
        typer.Option(min=0, help="Number of epochs without improvement after which to stop; 0 for never."),
    ] = 20,
    mirror: Annotated[bool | None, typer.Option(help="Mirror windows left to right.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all random numbers.")] = 0,
    device: Device = "auto",
    scratch: Annotated[
        Path | None, typer.Option(help="Folder for prepared cases, about 3 bytes for each voxel.")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option(help="Leave out broken cases instead of refusing to train.")
    ] = False,
    degrade: Annotated[
        str,
        typer.Option(
            help="For a restorer and clean images: rician:LOW:HIGH or gaussian:LOW:HIGH (share of the "
            "brightest), or low-dose:LOW:HIGH (share of the dose). Without it, cases have a target."
        ),
    ] = "",
    pretrained: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Encoder to start from: of medvit pretrain or the authors."),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Continue an interrupted training.")] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Show the plan and its costs, measured by a few steps, and stop.")
    ] = False,
    trust: Trust = False,
) -> Answer:
    """Train a network on your labelled studies; the result is a bundle that runs."""
    from medvit.training.architectures import start_named

    start_named(base, trust=trust)  # before torch is imported, which takes seconds
    from medvit.training import (
        Choices,
        Plan,
        find_base,
        find_restorer,
        restorer_for,
        restorer_network,
        train_bundle,
        train_folds,
        train_restorer,
    )

    choices = Choices(
        spacing, patch_size, epochs, epoch_length, minutes, batch_size, learning_rate, val_fraction, seed,
        folds, fold, patience, mirror, device,
    )  # fmt: skip
    network = restorer_network(base)
    if restorer := restorer_for(degrade) if network else find_restorer(base, trust):
        refuse_options(
            "a restorer", folds=folds, plan=plan, size=size, pretrained=pretrained, spacing=spacing,
            patch_size=patch_size, mirror=mirror is not None, scratch=scratch, skip_bad=skip_bad,
        )  # fmt: skip
        bundle = train_restorer(
            restorer, manifest, output, choices, degradation=degrade, network=network,
            from_scratch=from_scratch, data=data or "", resume=resume,
        )  # fmt: skip
        return Answer({"name": bundle.name, **bundle.summary()})
    refuse_options("a segmenter", degrade=degrade)
    found = find_base(base, size=size, from_scratch=from_scratch, pretrained=pretrained, trust=trust)
    done = (train_folds if folds else train_bundle)(
        found, manifest, output, choices, data=data or "", scratch=scratch, resume=resume,
        skip_bad=skip_bad, plan_only=plan,
    )  # fmt: skip
    return Answer(asdict(done) if isinstance(done, Plan) else {"name": done.name, **done.summary()})


def refuse_options(kind: str, **given: object) -> None:
    """Refuse options that do not apply to a kind of bundle."""
    for name, value in given.items():
        if value:
            raise MedvitError(f"--{name.replace('_', '-')} does not apply to {kind}")


@answering
def pretrain(
    base: Annotated[
        str,
        typer.Argument(
            help="Name of an installed bundle, a bundle folder with --trust, or a network, as for train.",
            metavar="BUNDLE|NETWORK",
        ),
    ],
    studies: Studies,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="File for the encoder, ending in .safetensors.",
            metavar="FILE",
            callback=checked_output_file,
        ),
    ],
    steps: Annotated[int, typer.Option(min=1, help="Number of optimiser steps.")] = 1000,
    minutes: Annotated[
        float | None,
        typer.Option(min=0.01, help="Time for the training, all of which is used; instead of --steps."),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Number of windows in a step. Default: 2, or 8 to 32 slices."),
    ] = None,
    learning_rate: Annotated[float, typer.Option(help="Highest learning rate of AdamW.")] = 5e-4,
    task: Annotated[
        str,
        typer.Option(
            help="What is predicted: masked cells (masked), removed patches for ViT and UNETR (mae; uni4eye: "
            "of slices and volumes in turn), or rotation, contrast and cut-outs for SwinUNETR (swin)."
        ),
    ] = "masked",
    mask_ratio: Annotated[
        float | None,
        typer.Option(help="Share that is masked. Default: 0.6, or 0.75 of patches."),
    ] = None,
    cell: Annotated[int | None, typer.Option(help="Edge of a masked cell in voxels. Default: 8.")] = None,
    patch_size: WindowSize = None,
    spacing: Spacing = None,
    size: Annotated[
        str | None, typer.Option(help="Size of a network by name: tiny, small (the default) or base.")
    ] = None,
    start: Annotated[
        str,
        typer.Option(
            "--from",
            help="Starting point: weights (those of the bundle, the default where they fit) or scratch.",
        ),
    ] = "",
    recipe: Annotated[
        Path | None,
        typer.Option(
            help="Recipe (workflows/reproduce/*.json) whose network, window, spacing and scaling replace the "
            "bundle's; it starts from scratch.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all random numbers.")] = 0,
    device: Device = "auto",
    resume: Annotated[bool, typer.Option(help="Continue an interrupted pre-training.")] = False,
    trust: Trust = False,
) -> Answer:
    """Pre-train a network on studies without labels; `medvit train --pretrained` starts from it."""
    from medvit.training.architectures import start_named

    start_named(base, trust=trust)  # before torch is imported, which takes seconds
    from medvit.training import (
        PretrainingChoices,
        find_base,
        find_restorer,
        pretrain_bundle,
        read_encoder,
        restorer_network,
    )

    choices = PretrainingChoices(
        steps=steps, minutes=minutes, batch_size=batch_size, learning_rate=learning_rate,
        task=task, mask_ratio=mask_ratio, cell=cell, patch_size=patch_size, spacing=spacing, start=start,
        seed=seed, device=device, recipe=str(recipe or ""),
    )  # fmt: skip
    if restorer_network(base) or find_restorer(base, trust):
        raise MedvitError(
            f"{base} restores images, which it learns without labels: use medvit train {base} --degrade"
        )
    found = find_base(base, size=size, trust=trust)
    file = pretrain_bundle(found, studies, output, choices, resume=resume)
    return Answer({"file": str(file), **asdict(read_encoder(file)[1])})


@answering
def label(
    studies: Annotated[
        str,
        typer.Argument(
            help="Folder of images, or the address of a DICOMweb service.",
            metavar="STUDIES",
            callback=checked_images,
        ),
    ] = "",
    models: Annotated[
        list[str] | None,
        typer.Option(
            help="Bundle to serve; may be repeated. Default: all that are installed, except quantised ones."
        ),
    ] = None,
    install: Annotated[
        bool,
        typer.Option("--install", help="Install MONAI Label once into a separate environment, and stop."),
    ] = False,
    host: Annotated[
        str, typer.Option(help="Address to bind; any other than loopback needs --token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to bind.")] = 8000,
    token: Annotated[
        str, typer.Option(envvar="MEDVIT_LABEL_TOKEN", help="Secret token that clients must present.")
    ] = "",
    workspace: Annotated[
        Path | None, typer.Option(help="Folder for trained versions and fetched series.")
    ] = None,
    query: Annotated[
        list[str] | None,
        typer.Option(help="Series of the archive to list, such as StudyDate=2026*; may be repeated."),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(help="Web viewer on another server that may access this one; may be repeated."),
    ] = None,
    trust: Trust = False,
    amp: Amp = "off",
    tf32: Tf32 = False,
    backend: Backend = "torch",
    *,
    say: Callable[[Answer], None],
) -> Answer:
    """Serve bundles to 3D Slicer and other viewers, over MONAI Label."""
    if install:
        from medvit.label.own_environment import make_environment

        folder = make_environment(typer.echo)
        say(Answer({"environment": str(folder)}, "done; now start `medvit label STUDIES`"))
        return Answer(None)
    if not studies:
        raise MedvitError("give a folder of images or the address of a DICOMweb service, or --install")
    from medvit.label.launch import serve

    code = serve(
        studies, models=models or (), trust=trust, amp=amp, tf32=tf32, backend=backend,
        host=host, port=port, token=token,
        folder=workspace, query=query or (), origins=allow_origin or (),
        say=lambda address, text: say(Answer({"address": address, "token": bool(token)}, text)),
    )  # fmt: skip
    return Answer(None, "", code)
