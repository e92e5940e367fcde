"""What an estimate learns by asking, for nothing: the API counts tokens, and the store knows answers."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from claude_pipeline.batches import BatchesApi
from claude_pipeline.calibrating import Floats, Prediction, calibrate, guess, guess_text
from claude_pipeline.census import Census, Weights
from claude_pipeline.costing import Cached
from claude_pipeline.errors import ApiError, CredentialsError, InputError
from claude_pipeline.measuring import cached_prefix, weigh
from claude_pipeline.parameters import check_client, check_params
from claude_pipeline.parquets import open_parquet
from claude_pipeline.prompts import Request, RequestForm
from claude_pipeline.records import JobRecord
from claude_pipeline.refusals import is_passing, is_refusal
from claude_pipeline.settings import Settings
from claude_pipeline.store import Store
from claude_pipeline.transport import make_client

if TYPE_CHECKING:
    from anthropic import Anthropic

_SAMPLE = 20
_LEAST_OF_A_MODEL = 3
_ENOUGH_ANSWERS = 20_000
_AT_ONCE = 8
_PAUSES = (1.0, 4.0, 15.0)
_LONGEST_PAUSE = 30.0


class Inquiry:
    """Asks the API and the store about the requests of one form.

    Without `exact` it does without whoever cannot be asked. What it had to do without stands in `notes`.
    """

    def __init__(self, form: RequestForm, *, exact: int | None) -> None:
        self.notes: list[str] = []
        self.learned: Floats = np.empty(0)
        self._form, self._exact = form, exact
        self._api: BatchesApi | None = None
        self._answers: Answers | None = None

    def begin(
        self,
        find_store: Callable[[], Store | None],
        *,
        client: "Anthropic | None",
        base_url: str | None,
        request: Mapping[str, Any],
    ) -> None:
        """Find out whether there is somebody to ask, and what the store has.

        Raises:
            InputError: The API would refuse a parameter of `request`, or the client has no batches.
            CredentialsError: There are no credentials, and `exact` needs some.
            ApiError: The API cannot be asked, and `exact` needs it.
        """
        check_params(None, request)
        if self._exact == 0:
            self.notes.append("Nobody was asked (exact=0): no tokens were counted, and the store was not looked at.")
            return
        try:
            client = client or make_client(base_url)
            check_client(client)
            check_params(client, request)
            self._api = BatchesApi(client)
            self._answers = _find_answers(find_store(), self._api)
        except (ApiError, CredentialsError) as error:
            self._do_without(error, "nothing was counted, and the store was not looked at")
        if self._answers:
            self.learned = self._answers.lengths(self._form)

    def _do_without(self, error: ApiError | CredentialsError, what: str) -> None:
        if self._exact is not None:
            raise error
        why = "There are no credentials" if isinstance(error, CredentialsError) else str(error).removesuffix(".")
        self.notes.append(f"{why}: {what}.")
        self._api = None

    @property
    def sample_size(self) -> int:
        """How many requests of a model to keep; one shows what is to be cached."""
        if self._api is None:
            return int(self._form.caches)
        return max(_LEAST_OF_A_MODEL, self._wanted)

    @property
    def _wanted(self) -> int:
        return _SAMPLE if self._exact is None else self._exact

    def known(self, addresses: set[bytes]) -> set[bytes]:
        """Return the addresses of requests that are answered or asked already."""
        return self._answers.known(addresses) if self._answers else set()

    def predict(self, census: Census, model: str) -> Prediction:
        """Predict the tokens of a model's prompts.

        Raises:
            InputError: The API would refuse the requests.
            ApiError: The API cannot be asked any more, and `exact` needs it.
        """
        weights = census.of_model(model)
        if self._api is None:
            return guess(weights)
        share = max(_LEAST_OF_A_MODEL, ceil(self._wanted * len(weights) / len(census.weights)))
        try:
            counted = self._count(self._api, census.samples[model][:share], model, is_all=not census.answered)
        except ApiError as error:
            self._do_without(error, "nothing more was counted")
            return guess(weights)
        return calibrate(weights, *_match(weights, counted))

    def _count(self, api: BatchesApi, requests: Sequence[Request], model: str, *, is_all: bool) -> dict[bytes, int]:
        """Count requests; where others were answered already, those that are left may well be the bad ones."""
        counts = dict(zip(requests, _count_each(api, requests, betas=self._form.betas), strict=True))
        refusals = [count for count in counts.values() if isinstance(count, ApiError)]
        if is_all and len(refusals) == len(requests):
            raise InputError(f"The API would refuse the requests to {model}: {refusals[0]}")
        if refusals:
            self.notes.append(
                f"The API refuses {len(refusals)} of {len(requests)} requests to {model} that were shown to it, "
                f"and would in a batch: {refusals[0]}"
            )
        return {request.address: count for request, count in counts.items() if isinstance(count, int)}

    def prefix(self, census: Census, model: str) -> Cached | None:
        """Tell how much of a model's prompts is to be cached, if anything is."""
        if not self._form.caches:
            return None
        (request, *_) = census.samples[model]
        params = cached_prefix(msgspec.json.decode(request.params))
        weight = weigh(msgspec.json.encode(params))
        tokens = guess_text(weight.text_bytes)
        if self._api is not None:
            try:
                tokens = self._api.count_tokens(params, betas=self._form.betas)
            except ApiError as error:
                self._do_without(error, "nothing more was counted")
        return Cached(tokens, weight.lifetime or "5m")


def _match(weights: Weights, counted: Mapping[bytes, int]) -> tuple[npt.NDArray[np.intp], Floats]:
    """Find the places of what was counted, and what each counted."""
    addresses = weights["address"]
    places = np.flatnonzero(np.isin(addresses, np.array(list(counted), dtype=addresses.dtype)))
    # NumPy drops the zeros that an address ends with.
    tokens = {address.rstrip(b"\0"): count for address, count in counted.items()}
    return places, np.array([tokens[address] for address in addresses[places].tolist()], dtype=np.float64)


# The store


@dataclass(frozen=True, slots=True)
class Answers:
    """What a store has of one account."""

    store: Store
    account: int

    def known(self, addresses: set[bytes]) -> set[bytes]:
        """Return the addresses of requests that are answered or asked already."""
        claims = self.store.ledger.claims(self.account, addresses)
        return {address for address, claim in claims.items() if not claim.failed}

    def lengths(self, form: RequestForm) -> Floats:
        """Return the output tokens of answers to requests of the same form, the newest 20,000 or so."""
        found: list[Floats] = []
        for job in reversed(self.store.ledger.jobs(account=self.account)):
            if Settings.of(job).form.parts == form.parts:
                found += self._lengths_of_job(job)
            if sum(map(len, found)) >= _ENOUGH_ANSWERS:
                break
        return np.concatenate([*found, np.empty(0)])

    def _lengths_of_job(self, job: JobRecord) -> list[Floats]:
        shards = self.store.ledger.own_shards(job.job_id)
        kept = [s for s in shards if s.results_id and s.state == "collected" and not s.pruned_at]
        return [self._lengths_of(shard.results_id) for shard in kept if not shard.asking]

    def _lengths_of(self, results_id: str) -> Floats:
        with open_parquet(self.store.results_path(results_id)) as file:
            table = file.read(["result_type", "output_tokens"])
        answered = table.filter(pc.equal(table["result_type"], "succeeded"))
        return np.asarray(answered["output_tokens"].to_numpy(), dtype=np.float64)


def _find_answers(store: Store | None, api: BatchesApi) -> Answers | None:
    """Look in a store for jobs of the client's account.

    Raises:
        ApiError: The API does not say who is asking.
    """
    if store is None:
        return None
    name = api.account()
    accounts = {job.account for job in store.ledger.jobs()}
    found = [account for account in accounts if store.ledger.account_name(account) == name]
    return Answers(store, found[0]) if found else None


# The API


def _count_each(api: BatchesApi, requests: Sequence[Request], *, betas: Sequence[str]) -> list[int | ApiError]:
    """Let the API count the tokens of each request, or say why it refuses it.

    Raises:
        ApiError: It cannot be asked.
    """
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        return list(threads.map(partial(_count, api, betas=betas), requests))


def _count(api: BatchesApi, request: Request, *, betas: Sequence[str]) -> int | ApiError:
    """Count one, and wait a little while the API has too much to do."""
    params = msgspec.json.decode(request.params)
    pauses = iter(_PAUSES)
    while True:
        try:
            return api.count_tokens(params, betas=betas)
        except ApiError as error:
            if is_refusal(error, model=params["model"]):
                return error
            pause = next(pauses, None)
            if pause is None or error.status is None or not is_passing(error):
                raise
            time.sleep(min(error.retry_after or pause, _LONGEST_PAUSE))
