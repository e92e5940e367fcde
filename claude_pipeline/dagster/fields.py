"""What stands in YAML, and how it is read: text as it is, paths from where the file is, and Dagster's own objects."""

import re
from typing import Any, Literal

import dagster as dg
from pydantic import Field

_JINJA = r"\{\{|\{%|\{#"
_MEND = "Write a field in single braces, such as {text}. Dagster takes double braces for its own."


class TimePartitions(dg.Model):
    """Partitions by the clock."""

    type: Literal["hourly", "daily", "weekly", "monthly"] = Field(
        description="How long a partition is.", examples=["daily"]
    )
    start_date: str = Field(description="When the first one begins.", examples=["2026-11-01"])
    end_date: str | None = Field(default=None, description="When the last one has ended.", examples=["2027-11-01"])
    timezone: str | None = Field(default=None, description="Whose clock it is; else UTC.", examples=["Europe/Zurich"])


class StaticPartitions(dg.Model):
    """Partitions by name."""

    type: Literal["static"] = Field(description="That they have names.", examples=["static"])
    partition_keys: list[str] = Field(description="Their names.", examples=[["north", "south"]])


class Retries(dg.Model):
    """How often a step is tried again when the API could not be reached."""

    max_retries: int = Field(default=1, ge=1, description="How often.", examples=[3])
    delay: float | None = Field(default=None, gt=0, description="Seconds before each.", examples=[60])


_TIME_PARTITIONS: dict[str, Any] = {
    "hourly": dg.HourlyPartitionsDefinition,
    "daily": dg.DailyPartitionsDefinition,
    "weekly": dg.WeeklyPartitionsDefinition,
    "monthly": dg.MonthlyPartitionsDefinition,
}


def plain(description: str, example: object) -> dg.Resolver:
    """Describe a field that Dagster reads as it reads all."""
    resolver: dg.Resolver = dg.Resolver.default(description=description, examples=[example])
    return resolver


def named(name: str, description: str, example: str) -> dg.Resolver:
    """Describe a text that has another name in YAML, where `Resolvable` has taken that."""
    return dg.Resolver(
        lambda _context, value: value,
        model_field_name=name,
        model_field_type=str,
        description=description,
        examples=[example],
    )


def text(description: str, example: str) -> dg.Resolver:
    """Describe a text that is taken as it stands, and has fields in single braces."""
    return dg.Resolver(
        _read_text,
        model_field_type=str,
        description=description,
        examples=[example],
        inject_before_resolve=False,
        json_schema_extra={"not": {"pattern": _JINJA, "$comment": _MEND}},
    )


def as_it_stands(description: str, example: object, *, kind: Any) -> dg.Resolver:  # noqa: ANN401  a type
    """Describe what goes to the API as it stands, whatever it holds."""
    return dg.Resolver(
        lambda _context, value: value,
        model_field_type=kind,
        description=description,
        examples=[example],
        inject_before_resolve=False,
    )


def path(description: str, example: object, *, kind: Any = str) -> dg.Resolver:  # noqa: ANN401  a type
    """Describe a path, or several, that begin where the YAML file is."""
    return dg.Resolver(_read_path, model_field_type=kind, description=description, examples=[example])


def injected(description: str, example: str) -> dg.Resolver:
    """Describe an object of Dagster's that is written as an expression."""
    resolver: dg.Resolver = dg.Resolver.default(model_field_type=str, description=description, examples=[example])
    return resolver


def partitions() -> dg.Resolver:
    """Describe partitions."""
    return dg.Resolver(
        _read_partitions,
        model_field_type=TimePartitions | StaticPartitions,
        description="Partitions, each of which is a job of its own.",
        examples=[{"type": "daily", "start_date": "2026-11-01"}],
    )


def retries() -> dg.Resolver:
    """Describe how a step is tried again."""
    return dg.Resolver(
        lambda _context, given: dg.RetryPolicy(max_retries=given.max_retries, delay=given.delay),
        model_field_type=Retries,
        description="How often a step is tried again when the API could not be reached; nothing is sent twice.",
        examples=[{"max_retries": 3, "delay": 60}],
    )


def single_run() -> dg.Resolver:
    """Describe whether one run of the submission takes all partitions of a backfill."""
    kind: Any = Literal["single_run"]
    return dg.Resolver(
        lambda _context, _given: dg.BackfillPolicy.single_run(),
        model_field_type=kind,
        description="Let one run of the submission take all partitions of a backfill.",
        examples=["single_run"],
    )


def _read_text(_context: dg.ResolutionContext, value: str) -> str:
    if re.search(_JINJA, value):
        raise ValueError(f"{value!r} has double braces. {_MEND}")
    return value


def _read_path(context: dg.ResolutionContext, value: str | list[str]) -> str | list[str]:
    if isinstance(value, str):
        return str(context.resolve_source_relative_path(value))
    return [str(context.resolve_source_relative_path(each)) for each in context.resolve_value(value)]


def _read_partitions(_context: dg.ResolutionContext, given: Any) -> Any:  # noqa: ANN401  PartitionsDefinition is generic
    if isinstance(given, StaticPartitions):
        return dg.StaticPartitionsDefinition(given.partition_keys)
    if isinstance(given, TimePartitions):
        return _TIME_PARTITIONS[given.type](
            start_date=given.start_date, end_date=given.end_date, timezone=given.timezone
        )
    return given  # an expression has made it already
