"""Random numbers and permutations as pure functions of integer keys.

Nothing here has state: a draw is identified by its key and its counter, never by how many draws came
before it. That is what makes the data order, the masks and the samples of a run the same after a restart
and with any number of workers.

The generator is SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
OOPSLA 2014), used in counter mode: draw number c of key k is the finaliser applied to k + (c + 1) * golden.
"""

import hashlib

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIER_1 = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLIER_2 = np.uint64(0x94D049BB133111EB)
_WORD_MASK = (1 << 64) - 1


def draw_bits(key: np.ndarray | int, counter: np.ndarray | int) -> np.ndarray:
    """Draw number `counter` of stream `key`: 64 random bits.

    Args:
        key: uint64, any shape. counter: non-negative integers, broadcast against `key`.

    Returns:
        uint64 array of the broadcast shape.
    """
    with np.errstate(over="ignore"):
        return _finalise(
            np.asarray(key, np.uint64) + (np.asarray(counter, np.uint64) + np.uint64(1)) * _GOLDEN
        )


def _finalise(words: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser; an array is overwritten."""
    words ^= words >> np.uint64(30)
    words *= _MULTIPLIER_1
    words ^= words >> np.uint64(27)
    words *= _MULTIPLIER_2
    words ^= words >> np.uint64(31)
    return words


def draw_uniforms(key: np.ndarray | int, counter: np.ndarray | int) -> np.ndarray:
    """Uniform float32 numbers in [0, 1), multiples of 2**-24 so that none rounds up to 1."""
    return (draw_bits(key, counter) >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


def derive_key(*parts: int | str) -> int:
    """One 64-bit key from a seed and the names and numbers that say what it is for."""
    key = 0
    for part in parts:
        if isinstance(part, str):
            word = int.from_bytes(hashlib.blake2b(part.encode("utf-8"), digest_size=8).digest(), "little")
        else:
            word = part & _WORD_MASK
        key = ScalarStream(ScalarStream(key).bits() ^ word).bits()
    return key


class ScalarStream:
    """A stream of draws in plain Python, for code that draws one number at a time."""

    def __init__(self, key: int):
        self._state = key & _WORD_MASK

    def bits(self) -> int:
        """The next 64 random bits: those that `draw_bits` gives for the counters 0, 1, 2, …"""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _WORD_MASK
        word = self._state
        word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _WORD_MASK
        word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _WORD_MASK
        return word ^ (word >> 31)

    def uniform(self) -> float:
        """The next number in [0, 1), with 53 random bits."""
        return (self.bits() >> 11) * 2.0**-53

    def integer(self, low: int, high: int) -> int:
        """The next integer in [low, high], both ends included."""
        return low + int(self.uniform() * (high - low + 1))


class Permutation:
    """A keyed bijection of range(size) in constant memory.

    A balanced Feistel network permutes the smallest even number of bits that covers the range; results
    outside it are permuted again until they fall inside ("cycle walking", Black and Rogaway, "Ciphers with
    arbitrary finite domains", CT-RSA 2002), at most four times on average.
    """

    _ROUNDS = 8

    def __init__(self, size: int, key: int):
        if size < 1:
            raise ValueError(f"a permutation needs a positive size, not {size}")
        self._size = np.uint64(size)
        self._half_bits = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
        self._half_mask = np.uint64((1 << int(self._half_bits)) - 1)
        # Draw `right` of a round's key is the finaliser applied to right * golden + this.
        self._round_offsets = draw_bits(key, np.arange(self._ROUNDS)) + _GOLDEN

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Map integers in [0, size) to their images: int64 in, int64 out, any shape."""
        values = np.asarray(values)
        images = self._encrypt(values.reshape(-1).astype(np.uint64))
        outside = np.flatnonzero(images >= self._size)
        while len(outside):
            images[outside] = again = self._encrypt(images[outside])
            outside = outside[again >= self._size]
        return images.reshape(values.shape).astype(np.int64)

    def _encrypt(self, values: np.ndarray) -> np.ndarray:
        left, right = values >> self._half_bits, values & self._half_mask
        for offset in self._round_offsets:
            # draw_bits in fewer calls, which in small arrays are the cost.
            words = right * _GOLDEN
            words += offset
            words = _finalise(words)
            words &= self._half_mask
            words ^= left
            left, right = right, words
        return (left << self._half_bits) | right
