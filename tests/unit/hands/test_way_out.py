"""A door that stays: for sandboxes whose agent carries what goes out. The others are seen in contracts."""

import asyncio
import os
import stat
from pathlib import Path

import pytest

from corral.hands.way_out import Egress, expected_way_out
from corral.session.call import Recipe
from corral.testing.origin import Origin
from tests.gateway import SECONDS, UNRESTRICTED, Gateway


async def test_what_is_carried_to_a_door_that_stays_goes_out(tmp_path: Path) -> None:
    recipe = Recipe(environment={"type": "cloud", "networking": UNRESTRICTED})
    async with Gateway.start(names={"origin.test": ["127.0.0.1"]}) as gateway, asyncio.timeout(SECONDS):
        with Origin.start() as origin:
            with expected_way_out(Egress(gateway.data_dir), doors=tmp_path, carries=True) as expected:
                [door] = tmp_path.glob("door-*")
                assert expected.door == door and expected.told
                assert (expected.told["way"], expected.told["carries"]) == ("/run/corral/door/way", True)
                assert stat.S_IMODE((door / "way").stat().st_mode) == 0o600
                way_out = expected.taken()
            assert way_out
            way_out.open("sesn_1", recipe)
            folder = os.open(door, os.O_DIRECTORY)  # the whole path may be too long for a socket
            for _ in range(2):
                reader, writer = await asyncio.open_unix_connection(f"/proc/self/fd/{folder}/way")
                head = (
                    f"GET http://origin.test:{origin.port}/ HTTP/1.1\r\nHost: origin.test:{origin.port}\r\n"
                )
                writer.write(f"{head}Connection: close\r\n\r\n".encode())
                assert (await reader.read(-1)).endswith(b"hello")
                writer.close()
            os.close(folder)
            assert (await gateway.entries())[-1]["session_id"] == "sesn_1"
            await way_out.close()
            await way_out.close()
    assert not list(tmp_path.iterdir())


async def test_a_door_that_nobody_took_goes(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="the boot failed"),
        expected_way_out(Egress(tmp_path), doors=tmp_path, carries=True),
    ):
        assert list(tmp_path.glob("door-*/way"))
        raise ValueError("the boot failed")
    assert not list(tmp_path.iterdir())


async def test_a_door_is_for_the_user_that_comes(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    with expected_way_out(Egress(tmp_path), doors=tmp_path, carries=True, owner=65_522):
        [way] = tmp_path.glob("door-*/way")
        assert (way.stat().st_uid, stat.S_IMODE(way.stat().st_mode)) == (65_522, 0o600)
