"""A node that runs bundles on received studies and sends the results back, without losing any.

Images are in ``inbox/`` before their sender gets a confirmation, and the progress of each study is in
``states/``. However the process ends, the next start continues from these two.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from ssl import SSLContext
from typing import Any

from medvit.bundles import Bundle, find_bundle
from medvit.errors import MedvitError
from medvit.runs.claims import claim
from medvit.runs.journal import read_events
from medvit.studies import SeriesRules, find_studies, safe_join, write_json
from medvit.studies.association import OUR_TITLE, Node
from medvit.studies.dimse import store
from medvit.studies.receiver import receiving

INBOX, STATES, RESULTS = "inbox", "states", "results"


@dataclass(frozen=True)
class Route:
    """The series on which a bundle is run.

    Parameters
    ----------
    bundle
        The bundle.
    rules
        Conditions on a series, in addition to those of the bundle.
    """

    bundle: Bundle
    rules: SeriesRules = field(default_factory=SeriesRules)


def read_routes(path: Path) -> list[Route]:
    """Routes from a JSON file: a list of objects with a ``bundle`` and the fields of `SeriesRules`.

    Raises
    ------
    MedvitError
        If the file is not of this form, or a bundle is unknown.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        routes = []
        for entry in entries:
            lists = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items() if k != "bundle"}
            if isinstance(lists.get("modality"), str):
                lists["modality"] = (lists["modality"],)
            routes.append(Route(find_bundle(entry["bundle"]), SeriesRules(**lists)))
        return routes
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise MedvitError(
            f"{path}: is not a list of rules ({error}); write [{{'bundle': NAME, 'modality': 'MR'}}, ...]"
        ) from None


@dataclass
class Processed:
    """The result of a study.

    Parameters
    ----------
    files
        DICOM results to send back.
    said
        Remarks on each series, in clauses.
    """

    files: list[Path] = field(default_factory=list)
    said: list[str] = field(default_factory=list)


@dataclass
class State:
    """The progress of a study.

    Parameters
    ----------
    instances
        Digest of the names of the instances that were processed.
    stage
        ``"made"``: results exist; ``"sent"``: the receiver has them; ``"failed"``: there are none.
    files
        Results, below the output folder.
    said
        Remark on the study.
    """

    instances: str
    stage: str
    files: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)


Process = Callable[[Path], Processed]


class Listener:
    """Turns the studies of an inbox into results, one after another.

    Parameters
    ----------
    output
        Folder with inbox, states and results.
    process
        Function that makes the results of a study's folder.
    receiver
        Node to which the results are sent; ``None`` for none.
    settle
        Seconds without a new instance after which a study counts as complete.
    keep
        Days that the images of a finished study are kept, so that late instances join the others.
    title
        Our AE title.
    say
        Function that takes messages, in sentences that do not name a patient.
    """

    def __init__(
        self,
        output: Path,
        process: Process,
        receiver: Node | None = None,
        *,
        settle: float = 60.0,
        keep: float = 7.0,
        title: str = OUR_TITLE,
        say: Callable[[str], None] = print,
    ) -> None:
        self.output, self.process, self.receiver = output, process, receiver
        self.settle, self.keep, self.title, self.say = settle, keep, title, say
        self._again: dict[str, float] = {}

    def run(self, stop: threading.Event, every: float = 1.0) -> None:
        """Work until `stop` is set."""
        while not stop.is_set():
            for study in self._settled():
                if stop.is_set():
                    break
                self._advance(study)
            stop.wait(every)

    def _settled(self) -> Iterator[Path]:
        folder = self.output / INBOX
        for study in sorted(folder.iterdir()) if folder.is_dir() else ():
            changed = max((p.stat().st_mtime for p in _received(study)), default=time.time())
            age = time.time() - changed
            state = self._state(study.name)
            done = state is not None and state.stage != "made" and state.instances == _instances(study)
            if done and age > self.keep * 86400:
                shutil.rmtree(study)
            elif not done and age >= self.settle and time.monotonic() >= self._again.get(study.name, 0):
                yield study

    def _advance(self, study: Path) -> None:
        state, instances = self._state(study.name), _instances(study)
        if state is None or state.instances != instances:
            state = self._made(study, instances)
        if state.stage == "made":
            state = self._sent(study.name, state)
        for said in state.said:
            self.say(f"{study.name}: {said}")

    def _made(self, study: Path, instances: str) -> State:
        try:
            processed = self.process(study)
        except MedvitError as error:
            processed = Processed(said=[str(error)])
        files = [path.relative_to(self.output).as_posix() for path in processed.files]
        return self._note(study.name, State(instances, "made" if files else "failed", files, processed.said))

    def _sent(self, study: str, state: State) -> State:
        if self.receiver is not None:
            try:
                store(self.receiver, [self.output / file for file in state.files], title=self.title)
            except MedvitError as error:
                # The receiver may return soon; the results wait for it.
                self._again[study] = time.monotonic() + max(self.settle, 10.0)
                self.say(f"{study}: not sent yet: {error}")
                return state
        said = f"{len(state.files)} results sent to {self.receiver}" if self.receiver else "results made"
        return self._note(study, State(state.instances, "sent", state.files, [*state.said, said]))

    def _state(self, study: str) -> State | None:
        path = self.output / STATES / f"{study}.json"
        return State(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None

    def _note(self, study: str, state: State) -> State:
        write_json(self.output / STATES / f"{study}.json", asdict(state))
        return state


def _received(study: Path) -> list[Path]:
    # A file that is being written has a hidden name.
    return sorted(path for path in study.rglob("*.dcm") if not path.name.startswith("."))


def _instances(study: Path) -> str:
    names = "\n".join(path.relative_to(study).as_posix() for path in _received(study))
    return hashlib.sha256(names.encode()).hexdigest()


@dataclass(frozen=True)
class BundleProcess:
    """Runs the first bundle whose route takes a series, through the runner of cohorts.

    Parameters
    ----------
    output
        Same as for `Listener`.
    routes
        Routes in order of preference.
    settings
        Overrides of the bundles' configurations, by identifier.
    """

    output: Path
    routes: Sequence[Route]
    settings: dict[str, Any] = field(default_factory=dict)

    def __call__(self, study: Path) -> Processed:
        """Results of the series in the folder of a study."""
        processed = Processed()
        chosen: dict[int, list[Path]] = {}
        for series in sorted(study.iterdir()):
            found = find_studies(series)
            facts = found.studies[0].series[0].facts if found.studies else {}
            objections = [route.rules.objection(facts) for route in self.routes]
            if not found.studies or all(objections):
                why = objections[0] if found.studies else "it holds no images"
                processed.said.append(f"series {series.name} is left out: {why}")
            else:
                chosen.setdefault(objections.index(""), []).append(series)
        for number, folders in chosen.items():
            self._run(self.routes[number].bundle, folders, processed)
        return processed

    def _run(self, bundle: Bundle, folders: list[Path], processed: Processed) -> None:
        # Slow to import, and receiving must not wait for it after a restart.
        from medvit.runs.bundle_work import BundleWork
        from medvit.runs.run import run_cohort
        from medvit.runs.work import finished

        output = self.output / RESULTS / bundle.name
        inputs = [str(folder) for folder in folders]
        settings = {"dicom": True, "pdf": True, **self.settings}
        found = BundleWork(bundle, output, settings, 1).find(inputs)
        processed.said += [f"{one.id} was refused: {one.error.what}" for one in found.refused]
        if not found.studies:
            return
        run_cohort(bundle, inputs, output, workers=1, **settings)
        for study in found.studies:
            folder = safe_join(output, study.id)
            results = sorted((folder / "dicom").rglob("*.dcm"))
            processed.files += results
            if folder.is_dir():
                outcome = finished(study, folder)
                why = "" if results else f"; no DICOM results: {outcome.missing.get('dicom', 'not made')}"
                processed.said.append(f"{study.id}: {outcome.light} {outcome.finding}".rstrip() + why)
            else:
                processed.said.append(f"{study.id} failed: {_last_error(output, study.id)}")


def _last_error(output: Path, study: str) -> str:
    errors = [
        e.get("error") for e in read_events(output) if e.get("study") == study and e["event"] == "failed"
    ]
    return str(errors[-1]) if errors else "see run.json"


def listen(
    output: Path,
    process: Process,
    *,
    title: str = OUR_TITLE,
    host: str = "127.0.0.1",
    port: int = 11112,
    senders: Collection[str] = (),
    tls: SSLContext | None = None,
    receiver: Node | None = None,
    settle: float = 60.0,
    keep: float = 7.0,
    stop: threading.Event | None = None,
    say: Callable[[str], None] = print,
    ready: Callable[[int], object] = lambda port: None,
) -> None:
    """Receive studies, process each that is complete, and send the results on, until stopped.

    Parameters
    ----------
    output, process, receiver, settle, keep, say
        The same arguments as of `Listener`.
    title, host, port, senders, tls
        The same arguments as of `medvit.studies.receiver.receiving`.
    stop
        Event that ends the node.
    ready
        Called once with the port that is bound.

    Raises
    ------
    PacsError
        If the address cannot be bound.
    MedvitError
        If another process listens into the same folder.
    """
    output.mkdir(parents=True, exist_ok=True)
    with claim(output, "listener") as ours:
        if not ours:
            raise MedvitError(f"{output}: another listener works in this folder; give each its own")
        with receiving(output / INBOX, title=title, host=host, port=port, senders=senders, tls=tls) as bound:
            ready(bound)
            worker = Listener(output, process, receiver, settle=settle, keep=keep, title=title, say=say)
            worker.run(stop or threading.Event())
