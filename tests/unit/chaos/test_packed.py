"""What is kept for the judgement comes back as it was, and takes little room meanwhile."""

import tracemalloc

from corral.chaos.packed import CHUNK, Packed
from corral.chaos.watch import Watch


def test_values_come_back_in_order() -> None:
    for count in (0, 1, CHUNK - 1, CHUNK, 2 * CHUNK + 3):
        values = [{"n": n, "text": "ä"} for n in range(count)]
        packed = Packed(values)
        assert list(packed) == values and len(packed) == count
        packed.append("more")
        assert list(packed) == [*values, "more"]


def test_a_long_stream_takes_little_room() -> None:
    def event(n: int) -> dict[str, object]:
        return {
            "id": f"sevt_{n:024}",
            "type": "agent.message",
            "content": [{"type": "text", "text": "x" * 500}],
        }

    watch = Watch("sesn_1", urls=["http://127.0.0.1:1"], api_key="k", previews=False)
    tracemalloc.start()
    try:
        for n in range(20 * CHUNK):
            watch.take(f"{n}.0", event(n))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [frame.event["id"] for frame in watch.shown()] == [event(n)["id"] for n in range(20 * CHUNK)]
    assert kept < 20 * CHUNK * 500 / 4
