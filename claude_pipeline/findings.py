"""What a check-up finds, as data and as text."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from claude_pipeline.display import plural

Severity = Literal["info", "warning", "error"]
Area = Literal["ledger", "files", "batches", "account", "disk"]
AREAS: Final[tuple[Area, ...]] = ("ledger", "files", "batches", "account", "disk")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a check-up has found.

    Attributes:
        kind: What it is, in a word that stays the same: `missing_results`, `blocked_job`, …
        area: What it concerns.
        severity: "info" needs nothing; "warning" needs somebody; "error" may have lost something.
        message: What is the matter, and with what.
        way_out: What a person can do, or has to know.
        repair: What `fix` does about it; None if it can do nothing.
        job_id: The job that it concerns, if it is one.
        batch_id: The batch, likewise.
        is_repaired: Whether it was there before the repair, and is no more.
    """

    kind: str
    area: Area
    severity: Severity
    message: str
    way_out: str | None = None
    repair: str | None = None
    job_id: str | None = None
    batch_id: str | None = None
    is_repaired: bool = False

    @property
    def needs_somebody(self) -> bool:
        """Tell whether it is more than worth knowing, and still there."""
        return self.severity != "info" and not self.is_repaired

    @property
    def word(self) -> str:
        """Say in a word how it stands."""
        return "repaired" if self.is_repaired else self.severity

    def __str__(self) -> str:
        if self.is_repaired:
            return self.message
        repair = self.repair and f"--fix {self.repair}."
        return " ".join(filter(None, [self.message, self.way_out, repair]))


@dataclass(frozen=True, slots=True)
class Checkup:
    """What a check-up of a store came to.

    Attributes:
        store: The folder.
        accounts: Who was asked at the API; none if nobody could be.
        versions: Of this library, the SDK, Arrow, Python and the schema of the ledger.
        jobs: How many jobs there are.
        batches: How many batches were sent.
        findings: What was found, by area.
    """

    store: str
    accounts: tuple[str, ...]
    versions: Mapping[str, str]
    jobs: int
    batches: int
    findings: tuple[Finding, ...]

    @property
    def is_complete(self) -> bool:
        """Tell whether the API could be asked as well."""
        return not any(finding.kind == "api_not_asked" for finding in self.findings)

    @property
    def needs_somebody(self) -> bool:
        """Tell whether something is left that neither passes by itself nor was repaired."""
        return any(finding.needs_somebody for finding in self.findings if finding.kind != "api_not_asked")

    def __str__(self) -> str:
        said = [f"{finding.word}: {finding}" for finding in self.findings]
        return "\n".join([self.heading(), *said, self.verdict()])

    def heading(self) -> str:
        """Say what was looked at, and with which versions."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        who = f"account {', '.join(self.accounts)}" if self.accounts else "no account"
        counts = f"{plural(self.jobs, 'job')}, {plural(self.batches, 'batch')}"
        return f"{self.store} · {counts} · {who}\n{versions}"

    def verdict(self) -> str:
        """Say in a sentence what is left to do."""
        left = [finding for finding in self.findings if finding.needs_somebody]
        repaired = sum(finding.is_repaired for finding in self.findings)
        done = f" {plural(repaired, 'thing')} repaired." if repaired else ""
        if not left:
            return f"All is well.{done}"
        fixable = sum(finding.repair is not None for finding in left)
        which = "it" if len(left) == 1 else "all of them" if len(left) == fixable else f"{fixable} of them"
        way_out = f" `claude-pipeline doctor --fix` repairs {which}." if fixable else ""
        return f"{plural(len(left), 'thing')} to look after.{done}{way_out}"
