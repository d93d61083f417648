"""Output of a verb: text for people or one JSON document, and how much else is shown.

A verb returns an `Answer`; `answering` adds ``--json``, ``-q`` and ``-v`` and prints the answer.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from medvit.errors import MedvitError
from medvit.exits import ALL_WELL, INTERRUPTED
from medvit.runs.options import SILENT


@dataclass(frozen=True)
class Answer:
    """The answer of a verb.

    Parameters
    ----------
    document
        The answer for other programs, in JSON types.
    text
        The answer for people; empty if it was printed on the way.
    exit_code
        See `medvit.exits`.
    why
        Clause on where to read why the exit code is not 0.
    """

    document: Any
    text: str = ""
    exit_code: int = ALL_WELL
    why: str = ""


@dataclass(frozen=True)
class Talk:
    """The output that the user wants.

    Parameters
    ----------
    quiet
        Show errors only.
    verbose
        Show log lines and warnings of MONAI, pydicom and the other libraries as well.
    as_json
        One JSON document on standard output, and everything else on standard error.
    """

    quiet: bool = False
    verbose: bool = False
    as_json: bool = False

    @contextmanager
    def during(self) -> Iterator[Callable[[Answer], None]]:
        """Show only the wanted output of this process and its children, for the duration of the block.

        The function that it yields prints an answer at once, even when other output is held back.
        """
        with ExitStack() as stack:
            if not self.verbose:
                stack.enter_context(_silent_libraries())
            nowhere = stack.enter_context(Path(os.devnull).open("w"))
            out = stack.enter_context(_aside(sys.stderr)) if self.as_json else sys.stdout
            if self.quiet:
                stack.enter_context(redirect_stdout(nowhere))
                stack.enter_context(redirect_stderr(nowhere))
            yield lambda answer: self.say(answer, out)

    def say(self, answer: Answer, out: TextIO) -> None:
        """Print the answer in the requested form."""
        if self.as_json:
            typer.echo(json.dumps(answer.document, indent=2), file=out)
        elif answer.text and not self.quiet:
            typer.echo(answer.text, file=out)

    def end(self, answer: Answer) -> None:
        """Tell the user that the verb did not succeed, even if it was quiet."""
        if self.quiet and answer.exit_code != ALL_WELL:
            why = f"; {answer.why}" if answer.why else ""
            typer.echo(f"medvit: ended with exit code {answer.exit_code}{why}", err=True)


def _talk(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document; progress goes to standard error.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print errors only; the exit code says the rest.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show log lines and warnings of other libraries as well.")
    ] = False,
) -> Talk:
    if quiet and verbose:
        raise MedvitError("--quiet and --verbose are opposites; leave out one of them")
    return Talk(quiet, verbose, as_json)


def answering(verb: Callable[..., Answer | None]) -> Callable[..., None]:
    """A verb with ``--json``, ``-q`` and ``-v``, which prints its answer and ends with its exit code.

    A verb with a last parameter `say`, such as a server, prints its answer by it while it is running, and
    returns an answer only to set the exit code."""
    parameters = signature(verb, eval_str=True).parameters
    own = [parameter for name, parameter in parameters.items() if name != "say"]

    def command(**given: Any) -> None:
        talk: Talk = given.pop("talk")
        try:
            with talk.during() as say:
                if "say" in parameters:
                    answer = verb(**given, say=say)
                elif (answer := verb(**given)) is not None:
                    say(answer)
        except KeyboardInterrupt:  # typer would end without a word
            typer.echo("medvit: interrupted", err=True)
            raise typer.Exit(INTERRUPTED) from None
        if answer is not None:
            talk.end(answer)
            raise typer.Exit(answer.exit_code)

    talk = Parameter("talk", Parameter.KEYWORD_ONLY, default=Talk())  # a default, to stay the last one
    return sharing(_talk)(_with_signature(wraps(verb)(command), [*own, talk]))


def sharing(options: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that adds the options of `options` to a verb, whose last parameter receives the result."""
    shared = signature(options, eval_str=True).parameters

    def decorate(verb: Callable[..., Any]) -> Callable[..., Any]:
        *own, last = signature(verb, eval_str=True).parameters.values()

        @wraps(verb)
        def command(**given: Any) -> Any:
            result = options(**{name: given.pop(name) for name in shared})
            return verb(**given, **{last.name: result})

        return _with_signature(command, [*own, *shared.values()])

    return decorate


def _with_signature(command: Callable[..., Any], parameters: list[Parameter]) -> Callable[..., Any]:
    """`command` with the signature that typer reads: named parameters, required ones first."""
    named = [parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in parameters]
    named.sort(key=lambda parameter: parameter.default is not parameter.empty)
    command.__signature__ = signature(command).replace(parameters=named)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in named}
    return command


@contextmanager
def _aside(other: TextIO) -> Iterator[TextIO]:
    """Send all standard output, also of child processes, to `other`; yields the real standard output."""
    out = sys.stdout
    with redirect_stdout(other):
        try:
            descriptor, aside = out.fileno(), other.fileno()
        except (OSError, ValueError, AttributeError):
            descriptor = -1
        if descriptor < 0:  # a stream without a file, as in a notebook
            yield out
            return
        out.flush()
        kept = os.dup(descriptor)
        os.dup2(aside, descriptor)
        try:
            with os.fdopen(os.dup(kept), "w", encoding="utf-8") as real:
                yield real
        finally:
            os.dup2(kept, descriptor)
            os.close(kept)


@contextmanager
def _silent_libraries() -> Iterator[None]:
    # Workers take over the environment, and the interpreter's options for warnings.
    disabled, options = logging.root.manager.disable, list(sys.warnoptions)
    os.environ[SILENT] = "1"
    sys.warnoptions.append("ignore")
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        sys.warnoptions[:] = options
        os.environ.pop(SILENT, None)
