"""From the tokens of a few counted requests to those of all: a regression on what requests weigh, and its margin."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# What is true of most texts and pictures; calibration replaces it.
_BYTES_PER_TOKEN, _TOKENS_PER_IMAGE, _BYTES_PER_TOKEN_OF_DOCUMENT = 3.5, 1_500, 30
_TEXT_MARGIN, _MEDIA_MARGIN = 0.4, 0.8
_MEDIA = {"images": float(_TOKENS_PER_IMAGE), "documents": 1 / _BYTES_PER_TOKEN_OF_DOCUMENT}

_EXPLAINING = ("text", "turns", "images", "documents")
_TELLING = 3  # so many of a sample must have a thing to tell what it comes to

# Student's t for 95 % and 1, 2, 3, … degrees of freedom; beyond, an approximation good to 0.2 %.
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclass(frozen=True, slots=True)
class Prediction:
    """Tokens of each request, and by what share their sum may be wrong, at about 95 %."""

    tokens: Floats
    margin: float
    counted: int = 0

    @property
    def total(self) -> float:
        """Tokens of all requests."""
        return float(self.tokens.sum())


def guess(weights: npt.NDArray[Any]) -> Prediction:
    """Guess the tokens of requests from their `text`, `images` and `documents`."""
    has_media = weights["images"].any() or weights["documents"].any()
    return Prediction(_guess(weights), _MEDIA_MARGIN if has_media else _TEXT_MARGIN)


def guess_text(size: float) -> int:
    """Guess the tokens of so many bytes of text."""
    return round(size / _BYTES_PER_TOKEN)


def _guess(weights: npt.NDArray[Any]) -> Floats:
    text, media = weights["text"] / _BYTES_PER_TOKEN, sum(weights[name] * unit for name, unit in _MEDIA.items())
    return np.asarray(1 + text + media, dtype=np.float64)


def calibrate(weights: npt.NDArray[Any], places: npt.NDArray[np.integer[Any]], counted: Floats) -> Prediction:
    """Predict the tokens of all requests from those of a uniform sample of them, at these places, that were counted.

    With enough of them it is a regression with an intercept, which takes up what all rows share; else the guess,
    corrected by what it was wrong by. Either way errors are taken to grow with the size of a request. Of images and
    documents that are too rare for the sample to tell, a guess stands for itself, which may be wrong by all of it.
    """
    if not len(counted):
        return guess(weights)
    rare = _guess_rare(weights, places)
    is_plain = rare[places] == 0
    plain, guesses = places[is_plain], np.maximum(_guess(weights) - rare, 1.0)
    features = _features(weights, guesses, plain)
    scaled, observed = features[plain] / guesses[plain, None], counted[is_plain] / guesses[plain]
    factors, _, rank, _ = np.linalg.lstsq(scaled, observed, rcond=None)
    tokens = np.maximum(features @ factors + rare, 1.0)
    tokens[places] = counted
    is_left = np.ones(len(weights), dtype=bool)
    is_left[places] = False
    freedom = len(plain) - int(rank)
    noise = float(np.square(observed - scaled @ factors).sum()) / max(1, freedom)
    error = np.sqrt(noise * _uncertainty(scaled, features[is_left], guesses[is_left])) * _t95(freedom)
    share = (error + np.abs(rare[is_left]).sum()) / tokens.sum()
    return Prediction(tokens, _margin(share, len(counted), of=len(weights)), len(counted))


def _guess_rare(weights: npt.NDArray[Any], places: npt.NDArray[np.integer[Any]]) -> Floats:
    """Guess the tokens of media that hardly any of the sample has, beyond what is common there."""
    rare = np.zeros(len(weights))
    for name, unit in _MEDIA.items():
        values = weights[name].astype(np.float64)
        sample = np.sort(values[places])
        common = sample[len(sample) // 2]
        if (sample != common).sum() < _TELLING:
            rare += unit * (values - common)
    return rare if (rare[places] == 0).any() else np.zeros(len(weights))


def _features(weights: npt.NDArray[Any], guesses: Floats, places: npt.NDArray[np.integer[Any]]) -> Floats:
    """Choose what explains the tokens: what varies in the sample, unless that is too small to tell."""
    told = np.stack([weights[name].astype(np.float64) for name in _EXPLAINING], axis=1)
    varying = np.ptp(told[places], axis=0) > 0
    if not varying.any() or len(places) < varying.sum() + 3:
        return guesses[:, None]
    return np.column_stack([np.ones(len(weights)), told[:, varying]])


def _uncertainty(scaled: Floats, features: Floats, guesses: Floats) -> float:
    """Return the variance of the sum of what was not counted, in units of the noise: the model's and their own."""
    total = features.sum(axis=0)
    return float(total @ np.linalg.pinv(scaled.T @ scaled) @ total + np.square(guesses).sum())


def _margin(share: float, counted: int, *, of: int) -> float:
    """Return the share, though not below what so few can support: none may be an outlier by chance."""
    return float(max(share, np.sqrt(1 - counted / of) / (2 * counted)))


def _t95(freedom: int) -> float:
    return _T95[max(0, freedom - 1)] if freedom <= len(_T95) else 1.96 + 2.6 / freedom


def margin_of_mean(values: Floats) -> float:
    """Return by what share the mean of a sample may be wrong, at about 95 %."""
    if len(values) < 2 or not values.any():  # noqa: PLR2004  one value has no spread, and nothing has no share
        return 1.0
    error = _t95(len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(max(error / values.mean(), 1 / (2 * np.sqrt(len(values)))))
