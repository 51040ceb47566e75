"""Typed, total configuration: pydantic models that refuse unknown keys, and messages that name the key."""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.config import JsonDict

from hyperclova_core.foundation.errors import ConfigError

NO_IDENTITY: JsonDict = {"identity": False}
"""`Field(json_schema_extra=NO_IDENTITY)`: where things lie, how much is held in memory at once. The output is the same whatever it says, so no
fingerprint has it; all records of a run do."""


class Config(BaseModel):
    """Base of every configuration: immutable, and a key it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    RENAMED: ClassVar[Mapping[str, str]] = {}
    """Keys of earlier versions → what they are called now: an old one is refused with the new one named."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_old_keys(cls, value: Any) -> Any:
        old = sorted(set(cls.RENAMED) & set(value)) if isinstance(value, Mapping) else []
        if old:
            raise ValueError("; ".join(f"`{key}` is called `{cls.RENAMED[key]}` now" for key in old))
        return value

    def identity(self) -> dict[str, Any]:
        """What decides on an output, as JSON has it: all fields but those that are marked as no part of it."""
        identity: dict[str, Any] = _identity(self, self.model_dump(mode="json"))
        return identity


def _identity(value: Any, dumped: Any) -> Any:
    if isinstance(value, BaseModel):
        return {
            name: _identity(getattr(value, name), dumped[name])
            for name, field in type(value).model_fields.items()
            if field.json_schema_extra != NO_IDENTITY
        }
    if isinstance(value, Mapping):
        return {key: _identity(item, dumped[key]) for key, item in zip(dumped, value.values(), strict=True)}
    if isinstance(value, (list, tuple)):
        return [_identity(item, made) for item, made in zip(value, dumped, strict=True)]
    return dumped


ConfigT = TypeVar("ConfigT", bound=Config)


class _Loader(yaml.SafeLoader):
    """YAML in which a key that is given twice is an error: the first would be lost without a word."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = loader.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
        if isinstance(key, Hashable) and key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"`{key}` is given twice", key_node.start_mark)
        seen.add(key)
    loader.flatten_mapping(node)
    return dict(loader.construct_mapping(node, deep=True))


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def load_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: the file is absent, not YAML, not a mapping, or gives a key twice.
    """
    try:
        value = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise ConfigError(
            "Cannot read the configuration file",
            where=str(path),
            why=error.strerror or str(error),
            remedy="check the path",
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            "The configuration file is not valid YAML",
            where=str(path),
            why=str(error).replace("\n", " "),
            remedy="correct the syntax",
        ) from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(
            "The configuration file is not a mapping",
            where=str(path),
            why=f"its top level is a {type(value).__name__}",
            remedy="write `key: value` lines",
        )
    return value


def parse(model: type[ConfigT], data: Mapping[str, Any], where: str) -> ConfigT:
    """`data` as a `model`.

    Raises:
        ConfigError: naming each wrong key, what is wrong with it, and the nearest known key.
    """
    try:
        return model.model_validate(dict(data))
    except ValidationError as error:
        reasons = []
        for item in error.errors():
            key = ".".join(str(part) for part in item["loc"])
            if item["type"] == "extra_forbidden":
                known = _known_keys(model, item["loc"][:-1])
                near = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
                hint = f"did you mean `{near[0]}`?" if near else f"known keys: {', '.join(known)}"
                reasons.append(f"unknown key `{key}` ({hint})")
            else:
                reasons.append(f"`{key}`: {item['msg']}")
        raise ConfigError(
            f"The configuration of {model.__name__.removesuffix('Config').lower()} is not valid",
            where=where,
            why="; ".join(reasons),
            remedy="correct or remove the named keys",
        ) from error


def _known_keys(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    current: Any = model
    for part in location:
        if isinstance(part, int) or not (isinstance(current, type) and issubclass(current, BaseModel)):
            continue
        field = current.model_fields.get(str(part))
        if field is None:
            return []
        current = _model_inside(field.annotation)
    return sorted(current.model_fields) if isinstance(current, type) and issubclass(current, BaseModel) else []


def _model_inside(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _model_inside(argument)
        if found is not None:
            return found
    return None


def apply_overrides(data: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of `data` with `a.b=value` settings applied; values are read as YAML.

    Raises:
        ConfigError: a setting without `=`, or one that goes through something that is not a mapping.
    """
    result: dict[str, Any] = yaml.safe_load(yaml.safe_dump(data)) or {}
    for setting in overrides:
        key, separator, raw = setting.partition("=")
        if not separator or not key:
            raise ConfigError("A setting has no value", where=f"--set {setting}", remedy="write --set key=value")
        node = result
        *parents, last = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(
                    "A setting goes through a plain value",
                    where=f"--set {setting}",
                    why=f"`{parent}` is not a mapping",
                    remedy="set the key above it",
                )
        node[last] = yaml.safe_load(raw)
    return result
