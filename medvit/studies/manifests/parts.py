"""Checks of manifests: pydantic types, and errors that name the file and the key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from medvit.errors import MedvitError

MAX_VALUE = 65_535  # of a label map in 16 bits

# YAML reads 001 as a number and NO as "false", so anything but text is refused rather than guessed.
Text = Annotated[str, Strict(), StringConstraints(strip_whitespace=True, min_length=1)]
Count = Annotated[int, Strict(), Field(ge=0)]
Value = Annotated[int, Strict(), Field(ge=0, le=MAX_VALUE)]
Number = Annotated[float, Strict()]
Triple = tuple[Number, Number, Number]
Texts = Annotated[tuple[Text, ...], BeforeValidator(lambda v: [v] if isinstance(v, str) else v)]

_NUMBERS = {"float_type", "int_type", "int_from_float", "greater_than_equal", "less_than_equal"}
M = TypeVar("M", bound=BaseModel)


def refuse(why: str) -> PydanticCustomError:
    """The error to raise in a validator: the fault of the key, as the rest of a sentence."""
    return PydanticCustomError("refused", "{why}", {"why": why})


class Lenient(BaseModel):
    """A part of a file that may have keys of other programs; a key without a value counts as missing."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _stated(cls, content: Any) -> Any:
        if not isinstance(content, Mapping):
            raise refuse(f"must be a mapping, not {shown(content)}")
        return {key: value for key, value in content.items() if value is not None}


class Part(Lenient):
    """A part of our own form, in which an unknown key is a mistake."""

    @model_validator(mode="before")
    @classmethod
    def _known(cls, content: Any) -> Any:
        for key in content if isinstance(content, Mapping) else ():
            if key not in cls.model_fields:
                known = ", ".join(sorted(cls.model_fields))
                raise PydanticCustomError(
                    "unknown_key",
                    "{key} is not a key that medvit knows; known are {known}",
                    {"key": str(key), "known": known},
                )
        return content


def checked(form: type[M], file: Path, content: Any) -> M:
    """`content` in the given form.

    Raises
    ------
    MedvitError
        If a key is wrong; the message names the file and the first such key.
    """
    try:
        return form.model_validate(content)
    except ValidationError as error:
        raise MedvitError(f"{file}: {_sentence(error)}") from None


def check_unique(file: Path, key: str, values: Iterable[Any]) -> None:
    """Refuse a value that occurs twice."""
    seen = set()
    for value in values:
        if value in seen:
            raise MedvitError(f"{file}: {key} gives {value!r} twice")
        seen.add(value)


def shown(value: Any) -> str:
    """A value for a message, shortened."""
    return repr(value) if len(repr(value)) <= 40 else f"{repr(value)[:40]}..."


def _sentence(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    kind, value, context = first["type"], first.get("input"), first.get("ctx", {})
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
    if kind == "unknown_key":
        return f"{place}.{first['msg']}" if place else first["msg"]
    if kind == "refused":
        return f"{place or 'a manifest'} {first['msg']}"
    if kind == "missing":
        return f"{place} is missing"
    if kind == "string_type":
        return f"{place} must be text, not {shown(value)}: put it in quotes"
    if kind == "string_too_short":
        return f"{place} must not be empty"
    if kind == "literal_error":
        return f"{place} must be {context['expected'].replace(chr(39), '')}, not {shown(value)}"
    if kind == "bool_type":
        return f"{place} must be true or false, not {shown(value)}"
    if kind in _NUMBERS:
        what = "a number" if kind == "float_type" else f"a whole number from {context.get('ge', 0)}"
        return f"{place} must be {what}, not {shown(value)}"
    if kind in ("tuple_type", "list_type"):
        return f"{place} must be a list, not {shown(value)}"
    return f"{place}: {first['msg']}"
