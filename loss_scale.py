"""The factor that keeps small gradients in float16's range (Micikevicius et al. 2018, section 3.2)."""


class LossScale:
    """Dynamic loss scaling for float16: halved by an overflow, doubled after 2,000 updates without one.

    Args:
        shares: micro-batches that an update's loss is divided among, on all workers. The gradient of one is
            that much smaller than the update's, and the first scale that much higher.

    Attributes:
        shares: the power of two next below them, which changes no digit.
    """

    INITIAL = 2.0**15
    _GROWTH_INTERVAL = 2000

    def __init__(self, enabled: bool, shares: int = 1):
        self.enabled = enabled
        self.shares = 2.0 ** (shares.bit_length() - 1)
        self.value = self.INITIAL * self.shares if enabled else 1.0
        self.updates_without_overflow = 0

    @property
    def of_one_share(self) -> float:
        """The scale as it would be of an update that is not divided."""
        return self.value / self.shares

    def update(self, applied: bool) -> None:
        if not self.enabled:
            return
        self.updates_without_overflow = self.updates_without_overflow + 1 if applied else 0
        if not applied:
            self.value /= 2
        elif self.updates_without_overflow % self._GROWTH_INTERVAL == 0:
            self.value *= 2

    def state(self) -> dict:
        return {
            "enabled": self.enabled,
            "value": self.value,
            "shares": self.shares,
            "updates_without_overflow": self.updates_without_overflow,
        }

    def restore(self, state: dict) -> None:
        """Go on with a checkpoint's scale; with the first one where the checkpoint's run had none."""
        # Checkpoints from before `enabled` was in them have 1 there.
        if self.enabled and state.get("enabled", state["value"] != 1.0):
            self.value = state["value"] * self.shares / state.get("shares", self.shares)
            self.updates_without_overflow = state["updates_without_overflow"]
