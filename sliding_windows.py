"""A text that is longer than a network's input, in windows that overlap; NumPy and plain Python only."""

import numpy as np


def window_places(tokens: int, room: int, stride: int) -> list[tuple[int, int]]:
    """(first token, number of tokens) of each window of a text; an empty text has one.

    Args:
        tokens: of the text.
        room: tokens that a window holds.
        stride: by how many tokens the windows advance; at most `room`, so that no token is left out.
    """
    beyond_first = max(0, tokens - room)
    firsts = range(0, beyond_first + stride, stride)
    return [(first, min(room, tokens - first)) for first in firsts]


def shown_best(firsts: np.ndarray, counts: np.ndarray, own: int) -> np.ndarray:
    """Of each token of window `own`, whether no other window shows it in more context: bool [its tokens].

    BERT's measure (google-research/bert, run_squad.py): the lesser of the tokens to the left and to the
    right, + .01 * tokens of the window, which is computed in hundredths here; of equal windows the first.

    Args:
        firsts, counts: int [windows], as `window_places` gives them.
    """
    firsts, counts = np.asarray(firsts), np.asarray(counts)
    places = firsts[own] + np.arange(counts[own])
    # The windows that share a token with it: of a long text a few of very many.
    begin = np.searchsorted(firsts + counts, firsts[own], side="right")
    end = np.searchsorted(firsts, firsts[own] + counts[own])
    begin, end = min(begin, own), max(end, own + 1)
    firsts, counts = firsts[begin:end, None], counts[begin:end, None]
    left, right = places - firsts, firsts + counts - 1 - places
    scores = np.where((left >= 0) & (right >= 0), 100 * np.minimum(left, right) + counts, -1)
    return scores.argmax(axis=0) == own - begin
