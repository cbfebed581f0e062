"""Declaring an app: its tables, and its APIs as plain functions.

    notes = App("notes", "Notes with tags.")
    NOTE = notes.table("note", "owner title body tags:list pinned:bool")

    @notes.api
    def pin(call: Call, id: Id, pinned: bool = True) -> Json:
        \"\"\"Pin or unpin a note.

        id: number of the note
        pinned: false to unpin
        \"\"\"
        call.own(NOTE, id)
        return call.update(NOTE, id, pinned=pinned)

The signature is the JSON schema and the docstring is the documentation: ``notes.pin`` now validates its
arguments, asks for an access token, is found by ``docs.search`` and can be called.
"""

from __future__ import annotations

import dataclasses
import datetime
import inspect
import re
import types
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from sdgym.envs.tools.calls import read_value
from sdgym.envs.tools.native import Written
from sdgym.envs.tools.tables import Table
from sdgym.errors import EnvError, suggest

Json = dict[str, Any]
Handler = Callable[..., Json]


class Rule(Json):
    """Part of a JSON schema inside ``Annotated`` (which wants something hashable)."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self.items()))


LARGEST = 2**53
TEXT_LIMIT, LIST_LIMIT = 4_000, 100

Id = Annotated[int, Rule(minimum=1)]
Page = Annotated[int, Rule(minimum=1)]
Dollars = Annotated[int, Rule(minimum=1, maximum=100_000)]
Day = Annotated[str, Rule(format="date")]
Moment = Annotated[str, Rule(format="date-time")]
Short = Annotated[str, Rule(maxLength=200, minLength=1)]
People = Annotated[list[str], Rule(minItems=1, maxItems=20)]

_FORMATS = {"date": (10, "a day like 2026-05-18"), "date-time": (16, "a time like 2026-05-18 09:00")}
_TYPES: dict[str, Any] = {"integer": (int,), "number": (int, float), "string": (str,), "boolean": (bool,), "array": (list,)}
_NOUN = {"integer": "an integer", "number": "a number", "string": "a text", "boolean": "true or false", "array": "a list"}
_WORDS = {"true": True, "True": True, "false": False, "False": False, "null": None, "None": None}
_PLAIN = {int: "integer", float: "number", str: "string", bool: "boolean"}


class ApiError(Exception):
    """An API refuses a call: HTTP-like ``code`` and a sentence for the caller."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


@dataclasses.dataclass(frozen=True)
class Param:
    """One argument of an API: its JSON schema, and its default if it may be left out."""

    name: str
    schema: Json
    required: bool
    default: Any = None


@dataclasses.dataclass(frozen=True)
class Api:
    """One API: what the documentation shows, and the function behind it."""

    app: str
    name: str
    description: str
    params: Mapping[str, Param]
    handler: Handler
    auth: bool

    @property
    def tool(self) -> str:
        """``app.name``."""
        return f"{self.app}.{self.name}"

    def schema(self) -> Json:
        """Return the JSON schema of the call in the layout of OpenAI function calling."""
        properties = {p.name: p.schema if p.required else {**p.schema, "default": p.default} for p in self.params.values()}
        required = [p.name for p in self.params.values() if p.required]
        if self.auth:
            properties["access_token"] = {"type": "string", "description": f"from {self.app}.login"}
            required.append("access_token")
        parameters = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
        return {"type": "function", "function": {"name": self.tool, "description": self.description, "parameters": parameters}}

    def bind(self, args: Mapping[str, Any]) -> Json:
        """Return the arguments of the handler, checked and completed.

        Raises:
            ApiError: 400 with the argument that is missing, unknown or ill-typed.
        """
        for name in args:
            if name not in self.params:
                raise ApiError(400, f"{self.tool} has no argument {name[:40]!r}{suggest(name[:40], self.params)}")
        bound = {}
        for param in self.params.values():
            value = typed(args.get(param.name), param.schema)
            if param.name in args and not (value is None and not param.required):
                check(f"{self.tool}: {param.name}", value, param.schema)
                bound[param.name] = value
            elif param.required:
                raise ApiError(400, f"{self.tool} needs the argument {param.name!r} ({param.schema['description']})")
            else:
                bound[param.name] = param.default
        return bound


def typed(value: Any, schema: Json) -> Any:
    """Return a value that was written without a type as what ``schema`` wants, if it can be read so; any other as it is."""
    if not isinstance(value, Written):
        return value
    text, wanted = str(value), schema.get("type")
    if wanted == "string":
        return text
    if text in _WORDS:
        return _WORDS[text]
    if wanted is None and not text.startswith("["):  # a number or a text will do: judges read numbers in texts
        return text
    return read_value(text)


def check(name: str, value: Any, schema: Json) -> None:
    """Raise :class:`ApiError` 400 unless ``value`` has the shape of ``schema`` (the subset of JSON Schema used here)."""
    wanted = schema.get("type") or _simple(name, value)
    if not isinstance(value, _TYPES[wanted]) or (isinstance(value, bool) and wanted != "boolean"):
        raise ApiError(400, f"{name} must be {_NOUN[wanted]}, got {_kind(value)}")
    if wanted in ("integer", "number"):
        low, high = schema.get("minimum", -LARGEST), schema.get("maximum", LARGEST)
        if not low <= value <= high:
            raise ApiError(400, f"{name} must be between {low} and {high}" if high != LARGEST else f"{name} must be at least {low}")
    elif wanted == "string":
        _check_text(name, value, schema)
    elif wanted == "array":
        low, high = schema.get("minItems", 0), schema.get("maxItems", LIST_LIMIT)
        if not low <= len(value) <= high:
            raise ApiError(400, f"{name} must have {low} to {high} entries, got {len(value)}")
        for item in value:
            check(f"an entry of {name}", item, schema.get("items", {}))


def _simple(name: str, value: Any) -> str:
    """Return the JSON type of ``value`` where any text, number, truth value or list of these will do."""
    if isinstance(value, list):
        for item in value[: LIST_LIMIT + 1]:
            if isinstance(item, list | dict):
                raise ApiError(400, f"{name} must be a text, a number or a list of these")
    kind = next((kind for kind in ("boolean", "integer", "number", "string", "array") if isinstance(value, _TYPES[kind])), None)
    if kind is None:
        raise ApiError(400, f"{name} must be a text, a number or a list of these, got {_kind(value)}")
    return kind


def _check_text(name: str, value: str, schema: Json) -> None:
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", TEXT_LIMIT):
        raise ApiError(400, f"{name} must have {schema.get('minLength', 0)} to {schema.get('maxLength', TEXT_LIMIT)} characters")
    if "enum" in schema and value not in schema["enum"]:
        raise ApiError(400, f"{name} must be one of {', '.join(schema['enum'])}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ApiError(400, f"{name} is not valid Unicode") from None
    if "format" in schema:
        length, example = _FORMATS[schema["format"]]
        try:
            good = len(value) == length and value[10:11] in ("", " ") and bool(datetime.datetime.fromisoformat(value))
        except ValueError:
            good = False
        if not good:
            raise ApiError(400, f"{name} must be {example}")


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    for kind in ("boolean", "integer", "number", "string", "array"):
        if isinstance(value, _TYPES[kind]):
            return f"the text {value[:30]!r}" if kind == "string" else _NOUN[kind]
    return "an object"


class App:
    """A named group of tables and APIs.

    Args:
        name: prefix of its tools.
        description: one sentence for the documentation.
        auth: whether calls need an access token; such an app has ``login``, ``logout`` and ``account``.
    """

    def __init__(self, name: str, description: str, auth: bool = True) -> None:
        self.name, self.description, self.auth = name, description, auth
        self.tables: list[Table] = []
        self.apis: dict[str, Api] = {}

    def table(self, noun: str, columns: str) -> Table:
        """Declare a table (see :class:`Table`)."""
        self.tables.append(Table(self.name, noun, columns))
        return self.tables[-1]

    def api(self, function: Handler) -> Handler:
        """Declare a function ``(call, **arguments) -> dict`` as an API of this app (decorator)."""
        return self.declare(function, self.auth)

    def open_api(self, function: Handler) -> Handler:
        """Declare an API that needs no access token (decorator)."""
        return self.declare(function, auth=False)

    def declare(self, function: Handler, auth: bool) -> Handler:
        """Read name, arguments and documentation off ``function`` and register it."""
        name = function.__name__.rstrip("_")
        text = inspect.getdoc(function) or ""
        told = dict(re.findall(r"^(\w+): (.+)$", text, re.M))
        params = {}
        for parameter in list(inspect.signature(function, eval_str=True).parameters.values())[1:]:
            if parameter.name not in told:
                raise EnvError(f"{self.name}.{name} does not say what its argument {parameter.name!r} is; add a line to its docstring")
            schema = {**schema_of(parameter.annotation), "description": told[parameter.name]}
            required = parameter.default is parameter.empty
            params[parameter.name] = Param(parameter.name, schema, required, None if required else parameter.default)
        self.apis[name] = Api(self.name, name, text.split("\n")[0], params, function, auth)
        return function


def schema_of(annotation: Any) -> Json:
    """Return the JSON schema of a type annotation (``int``, ``str``, ``bool``, ``list[…]``, ``Literal``, ``Annotated``, ``… | None``)."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return {**schema_of(args[0]), **args[1]}
    if origin in (Union, types.UnionType):
        return schema_of(next(a for a in args if a is not type(None)))
    if origin is Literal:
        return {"type": "string", "enum": list(args)}
    if origin is list:
        return {"type": "array", "items": schema_of(args[0])}
    if annotation is Any:
        return {}
    if annotation in _PLAIN:
        return {"type": _PLAIN[annotation]}
    raise EnvError(f"an API argument cannot have the type {annotation!r}; use int, float, str, bool, list[…], Literal or Annotated")
