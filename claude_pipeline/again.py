"""Asking chosen rows of a job afresh: a job of its own, with a salt of its own, paid for anew."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pyarrow as pa

from claude_pipeline.arrays import int64_array
from claude_pipeline.census import take_census
from claude_pipeline.choosing import Positions
from claude_pipeline.display import plural
from claude_pipeline.errors import InputError
from claude_pipeline.estimates import Estimate
from claude_pipeline.estimating import sum_up
from claude_pipeline.inquiring import Inquiry
from claude_pipeline.parquets import open_parquet, row_bytes, rows_within
from claude_pipeline.pricing import PriceList
from claude_pipeline.prompts import RequestForm, address_header
from claude_pipeline.records import JobRecord
from claude_pipeline.sessions import Session
from claude_pipeline.settings import Settings, check_limits
from claude_pipeline.sources import snapshot
from claude_pipeline.starting import start
from claude_pipeline.store import Store
from claude_pipeline.tables import Table
from claude_pipeline.values import check_unicode

if TYPE_CHECKING:
    from anthropic import Anthropic


@dataclass(frozen=True, slots=True)
class Again:
    """Rows of a job, to be asked afresh.

    Attributes:
        positions: Where the rows stand in the job's input, counted from 0 and in order.
        settings: The job's, with a form that has a salt of its own.
    """

    store: Store
    job: JobRecord
    positions: Positions
    settings: Settings

    @classmethod
    def of(
        cls, store: Store, job: JobRecord, positions: Positions, *, salt: str | None, max_cost_usd: float | None = None
    ) -> "Again":
        """Put together what the new job is; the same rows and salt are the same job.

        Raises:
            InputError: The salt is no text, the limit no amount, rows have salts of their own, or what was asked is
                not known.
        """
        settings = Settings.of(job)
        settings.check_known(job.job_id)
        limits = msgspec.structs.replace(settings.limits, max_cost_usd=max_cost_usd)
        check_limits(limits)
        form = _salted(settings.form, _salt(job, positions, salt), job.job_id)
        label = f"{plural(len(positions), 'row')} of {settings.label}"
        changed = msgspec.structs.replace(settings, label=label, form=form, limits=limits, mode="batch")
        return cls(store, job, positions, changed)

    def estimate(self, *, exact: int | None, base_url: str | None, client: "Anthropic | None") -> Estimate:
        """Estimate what the new job would cost."""
        form, limits = self.settings.form, self.settings.limits
        prices = PriceList(datetime.now(UTC), store=self.store.path)
        inquiry = Inquiry(form, exact=exact)
        inquiry.begin(lambda: self.store, client=client, base_url=base_url or self.settings.base_url, request={})
        ask = partial(take_census, limit=None, largest=limits.max_batch_bytes, sample=inquiry.sample_size)
        with closing(self._table()) as table:
            census = ask(table, form, known=inquiry.known)
        return sum_up(self.settings.label, census, inquiry, prices, limits)

    def start(self, session: Session, client: "Anthropic", *, name: str | None, preflight: bool) -> str:
        """Make it a job of the store; return its id.

        Raises:
            InputError: It is expected to cost more than it may, or the API would refuse it.
        """
        check_unicode("name", name or "")
        taken = snapshot(self._table(), self.store.new_input_path(), mode=self.store.file_mode)
        estimated = partial(self.estimate, exact=None, base_url=None, client=client)
        try:
            return start(self.store, session, taken, self.settings, name=name, preflight=preflight, estimated=estimated)
        finally:
            taken.path.unlink(missing_ok=True)

    def _table(self) -> Table:
        path = self.store.input_path(self.job.job_id)
        with open_parquet(path) as file:
            schema = file.schema_arrow
        return Table(self.settings.label, schema, self._rows())

    def _rows(self) -> Iterator[pa.RecordBatch]:
        first = 0
        with open_parquet(self.store.input_path(self.job.job_id)) as file:
            for batch in file.iter_batches(batch_size=rows_within(row_bytes(file))):
                low, high = np.searchsorted(self.positions, [first, first + batch.num_rows])
                if low < high:
                    yield batch.take(int64_array(self.positions[low:high] - first))
                first += batch.num_rows


def _salt(job: JobRecord, positions: Positions, salt: str | None) -> str:
    check_unicode("salt", salt or "")
    chosen = blake2b(positions.tobytes(), digest_size=8).hexdigest()
    return f"{job.job_id} {chosen} {salt or ''}"


def _salted(form: RequestForm, salt: str, job_id: str) -> RequestForm:
    if form.salt_column is not None:
        raise InputError(
            f"The rows of {job_id} have salts of their own, in column {form.salt_column!r}. "
            "Give the rows new ones there, and submit them."
        )
    return msgspec.structs.replace(form, header=address_header(form.betas, salt))
