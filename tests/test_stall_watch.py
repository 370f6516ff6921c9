"""A worker that waits for ever is ended; one whose work takes long is not."""

import threading
import time

from stall_watch import StallWatch


def test_what_takes_long_and_goes_on_is_not_ended(tmp_path, monkeypatch):
    ended = threading.Event()
    monkeypatch.setattr(StallWatch, "_end", lambda watch: ended.set())
    watch = StallWatch(tmp_path / "stalled", rank=0, size=2, timeout=2.0)
    with watch.doing("evaluating"):
        for _ in range(30):
            watch.make_progress()
            time.sleep(0.1)
        assert not ended.is_set()
        assert ended.wait(20), "and what does not go on is"
    watch.stop()
