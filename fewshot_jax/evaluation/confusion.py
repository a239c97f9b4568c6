"""Which classes are taken for which, over episodes that each have a few of them."""

from typing import NamedTuple

import numpy as np


class Confusion(NamedTuple):
    """A confusion matrix over the episodes of an evaluation, whose classes are a few of all at a time.

    Attributes:
        classes: the ``C`` test classes.
        counts: ``[C, C]``; row ``i``, column ``j`` are queries of class ``i`` labelled as ``j``, over all episodes.
        asked: ``[C, C]``; queries of class ``i`` in episodes that had class ``j`` too.
    """

    classes: list[str]
    counts: np.ndarray
    asked: np.ndarray

    def to_json(self) -> dict[str, dict[str, int]]:
        """The counts that are not zero: for each class, how often it was labelled as what."""
        rows = zip(self.classes, self.counts, strict=True)
        return {name: {self.classes[j]: int(row[j]) for j in np.flatnonzero(row)} for name, row in rows if row.any()}

    def worst(self, most: int = 3, least: int = 10) -> list[tuple[str, str, float]]:
        """The pairs most often taken one for the other: class, what it was labelled as, and in which share of its
        queries where both stood to choice.

        Args:
            most: so many pairs.
            least: of pairs with so many such queries.
        """
        other = ~np.eye(len(self.classes), dtype=bool) & (self.asked >= least)
        shares = np.where(other, self.counts / np.maximum(self.asked, 1), 0)
        order = np.argsort(-shares, axis=None, kind="stable")[:most]
        pairs = [np.unravel_index(place, shares.shape) for place in order]
        return [(self.classes[i], self.classes[j], float(shares[i, j])) for i, j in pairs if shares[i, j] > 0]
