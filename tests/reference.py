"""The reference of every public name, from signatures and docstrings: `uv run python tests/reference.py` writes it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import griffe
from griffe import DocstringSectionKind as Kind

import claude_pipeline as cp
from claude_pipeline import dagster
from claude_pipeline.dagster import BatchComponent, Checks, ClaudeResource

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "reference.md"
WIDTH = 100
HEAD = """# Reference

Every public name, from its docstring: `uv run python tests/reference.py` writes this page, and a test keeps it current.
By custom it is `import claude_pipeline as cp`. Costs are in US dollars, times in seconds, sizes in bytes, unless
something else is said.
"""
DESCRIBED = {kind.__name__: kind for kind in (BatchComponent, Checks, ClaudeResource)}


@dataclass
class Entry:
    """What the reference says of a name, and what its docstring owes."""

    heading: str
    signature: str = ""
    lines: list[str] = field(default_factory=list)
    owed: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        code = f"```py\n{self.signature}\n```" if self.signature else ""
        text = re.sub("\n{3,}", "\n\n", "\n".join(self.lines).strip())
        return "\n\n".join(part for part in (self.heading, code, text) if part) + "\n"


def load(module: str) -> griffe.Module:
    loaded = griffe.load(module, search_paths=[ROOT], docstring_parser="google", resolve_aliases=True)
    assert isinstance(loaded, griffe.Module)
    return loaded


def target(found: griffe.Object | griffe.Alias) -> griffe.Object:
    return found.final_target if isinstance(found, griffe.Alias) else found


def signature(function: griffe.Function, name: str) -> str:
    """Write a signature in a line, or with a line for each parameter where that is too long."""
    parts, stars = [], False
    for parameter in function.parameters:
        if parameter.name == "self":
            continue
        if parameter.kind is griffe.ParameterKind.keyword_only and not stars:
            parts.append("*")
            stars = True
        prefix = "**" if parameter.kind is griffe.ParameterKind.var_keyword else ""
        annotation = f": {parameter.annotation}".replace('"', "") if parameter.annotation else ""
        default = f" = {parameter.default}" if parameter.default is not None and not prefix else ""
        parts.append(f"{prefix}{parameter.name}{annotation}{default}")
    returns = f" -> {function.returns}".replace('"', "") if function.returns else ""
    line = f"{name}({', '.join(parts)}){returns}"
    return line if len(line) <= WIDTH else "\n".join([f"{name}(", *(f"    {part}," for part in parts), f"){returns}"])


def described(documented: griffe.Object, entry: Entry) -> set[str]:
    """Add a docstring to an entry, and return the names that it describes."""
    names: set[str] = set()
    if documented.docstring is None:
        entry.owed.append(f"{documented.path} has no docstring")
        return names
    for section in documented.docstring.parsed:
        if section.kind is Kind.text:
            entry.lines += [section.value, ""]
        elif section.kind in {Kind.parameters, Kind.attributes}:
            names |= {each.name.lstrip("*") for each in section.value}
            entry.lines += [f"- `{each.name}`: {one_line(each.description)}" for each in section.value] + [""]
        elif section.kind is Kind.raises:
            entry.lines += ["Raises:", ""]
            entry.lines += [f"- `{each.annotation}`: {one_line(each.description)}" for each in section.value] + [""]
    return names


def one_line(text: str) -> str:
    return " ".join(text.split())


def function_entry(function: griffe.Function, heading: str, name: str) -> Entry:
    entry = Entry(heading, signature(function, name))
    names = described(function, entry)
    if names:
        parameters = {parameter.name for parameter in function.parameters} - {"self"}
        entry.owed += [f"{function.path} says nothing of {name}" for name in sorted(parameters - names)]
    return entry


def class_entries(kind: griffe.Class, name: str, level: str) -> Iterator[Entry]:
    entry = Entry(f"{level} {name}")
    made = kind.members.get("__init__")
    names = described(kind, entry)
    if isinstance(made, griffe.Function) and names & {parameter.name for parameter in made.parameters}:
        entry.signature = signature(made, name)
    entry.lines += [*fields_of(name), ""] if name in DESCRIBED else [*plain_fields(kind, besides=names), ""]
    yield entry
    for member in kind.members.values():
        if isinstance(member, griffe.Function) and not member.name.startswith("_"):
            yield function_entry(member, f"{level}# {name}.{member.name}", member.name)
        elif isinstance(member, griffe.Attribute) and "property" in member.labels and not member.name.startswith("_"):
            sub = Entry(f"{level}# {name}.{member.name}")
            described(member, sub)
            yield sub


def fields_of(name: str) -> Iterator[str]:
    """Describe the fields of what pydantic reads."""
    kind = DESCRIBED[name]
    model = kind.model() if kind is BatchComponent else kind
    for field_name, each in model.model_fields.items():
        example = f" Such as `{each.examples[0]!r}`." if each.examples else ""
        yield f"- `{field_name}`: {each.description or ''}{example}"


def plain_fields(kind: griffe.Class, *, besides: set[str]) -> Iterator[str]:
    """List fields whose names and types say enough."""
    for member in kind.members.values():
        is_field = isinstance(member, griffe.Attribute) and "property" not in member.labels
        if is_field and member.name[:1] != "_" and member.name not in besides:
            annotation = f": {member.annotation}".replace('"', "") if member.annotation else ""
            yield f"- `{member.name}{annotation}`"


@cache
def entries() -> tuple[Entry, ...]:
    """Return an entry for each public name, under headings."""
    found: list[Entry] = []
    package, plugin = load("claude_pipeline"), load("claude_pipeline.dagster")
    core = {name: target(package[name]) for name in cp.__all__}
    functions = {name: each for name, each in core.items() if isinstance(each, griffe.Function)}
    errors = {name: each for name, each in core.items() if each.path.startswith("claude_pipeline.errors.")}
    others = {name: each for name, each in core.items() if name not in functions | errors}
    parts = {"Functions": functions, "Classes": others, "Errors": errors}
    parts["Dagster"] = {name: target(plugin[name]) for name in dagster.__all__}
    fixture = load("claude_pipeline.sandbox.pytest_plugin")["claude_sandbox"]
    parts["pytest"] = {"claude_sandbox": target(fixture)}
    for heading, some in parts.items():
        found.append(Entry(f"## {heading}"))
        for name, each in some.items():
            found += entries_of(each, name)
    return tuple(found)


def entries_of(each: griffe.Object, name: str) -> list[Entry]:
    if isinstance(each, griffe.Class):
        return [*class_entries(each, name, "###")]
    if isinstance(each, griffe.Function):
        return [function_entry(each, f"### {name}", name)]
    value = f"{name} = {each.value}" if isinstance(each, griffe.Attribute) else ""
    entry = Entry(f"### {name}", value if len(value) <= WIDTH else "")
    described(each, entry)
    return [entry]


def page() -> str:
    return "\n".join([HEAD, *map(str, entries())])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
