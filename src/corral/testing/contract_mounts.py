"""What every provider must do for mounts; part of `contract_provider`."""

import tarfile

from corral.hands.ports import Sandbox
from corral.kernel.errors import InvalidRequest
from corral.session.call import Mount, MountMode, Recipe
from corral.testing.lab import Lab, archive_of, in_chunks, member

__all__ = ["MountContract", "memory"]


def memory(slug: str, mode: MountMode) -> Mount:
    return Mount(mount_id=slug, kind="memory", path=f"/mnt/memory/{slug}", digest="", mode=mode)


class MountContract:
    async def test_uploads_come_while_it_lives_and_are_read_only(self, lab: Lab) -> None:
        box, seen = await lab.sandbox(), lab.seen("/mnt/session/uploads")
        uploads = lab.provider.place(await lab.workspace(), "uploads")
        (uploads / "data.csv").write_text("1,2\n")
        (uploads / "data.csv").chmod(0o644)
        assert await lab.bash(box, f"cat {seen}/data.csv") == "1,2"
        for attempt in (
            f"echo x >> {seen}/data.csv",
            f"rm {seen}/data.csv",
            f"touch {seen}/new",
            f"mkdir {seen}/../new",
            f"ln {seen}/data.csv hard",  # another mount, though the same disk
            *([f"chmod 777 {seen}/data.csv"] if lab.provider.capabilities.holds("user") else []),
        ):
            await lab.fails(box, attempt)
        (uploads / "data.csv").unlink()
        assert await lab.bash(box, f"ls {seen}") == "(no output)"

    async def test_memory_stores_are_mounted_by_their_mode(self, lab: Lab) -> None:
        recipe = Recipe(mounts=(memory("notes", "read_write"), memory("law", "read_only")))
        box = await lab.sandbox(recipe=recipe)
        home, seen = await lab.workspace(), lab.seen("/mnt/memory")
        rule = lab.provider.place(home, "memory/law") / "rule"
        rule.write_text("be kind")
        rule.chmod(0o644)
        assert await lab.bash(box, f"ls {seen}; cat {seen}/law/rule") == "law\nnotes\nbe kind"
        await lab.bash(box, f"mkdir {seen}/notes/a && echo mine > {seen}/notes/a/b")
        assert (lab.provider.place(home, "memory/notes") / "a" / "b").read_text() == "mine\n"
        for attempt in (
            f"echo x > {seen}/law/rule",
            f"rm -f {seen}/law/rule && ! test -e {seen}/law/rule",
            f"touch {seen}/law/new",
            f"mkdir {seen}/other",
        ):
            said = await lab.fails(box, attempt)
            assert "Read-only file system" in said or "Permission denied" in said, said
        assert rule.read_text() == "be kind"
        await box.destroy()
        await lab.provider.remove_workspace(home)
        assert not home.exists()

    async def test_a_recipe_cannot_mount_elsewhere(self, lab: Lab) -> None:
        home = await lab.workspace()
        for place in ("", "files", "memory", "memory/..", "memory/a/b", "../x", "/etc"):
            try:
                found = lab.provider.place(home, place)
            except InvalidRequest:
                continue
            raise AssertionError(found)

    async def test_a_copy_is_whole_or_not_at_all(self, lab: Lab) -> None:
        path = await lab.workspace()
        box: Sandbox = await lab.sandbox()
        good = archive_of(
            (member("src/run.sh", mode=0o755), b"echo ran\n"),
            (member("passwd", tarfile.SYMTYPE, link="/etc/passwd"), b""),
            (member("up", tarfile.SYMTYPE, link="../../mnt"), b""),
        )
        hostile = [
            archive_of((member("a"), b"1"), (member("../out"), b"2")),
            archive_of((member("a"), b"1"), (member("dev", tarfile.CHRTYPE), b"")),
            archive_of((member("up", tarfile.SYMTYPE, link="/tmp"), b""), (member("up/x"), b"2")),  # noqa: S108
        ]
        for number, archive in enumerate(hostile):
            try:
                await lab.provider.import_archive(path, in_chunks(archive), below=f"bad{number}")
            except InvalidRequest:
                continue
            raise AssertionError("a hostile copy was unpacked")
        assert await lab.bash(box, "ls -A") == "(no output)"
        await lab.provider.import_archive(path, in_chunks(good), below="deep/repo")
        assert await lab.bash(box, "(cd deep/repo; bash src/run.sh; readlink passwd up; ls -A ..)") == (
            "ran\n/etc/passwd\n../../mnt\nrepo"
        )
        await lab.bash(box, f"ln -s {lab.seen('/mnt/session/outputs')} link; echo mine > deep/repo/mine")
        await lab.provider.import_archive(path, in_chunks(good), below="deep/repo")  # what is there stays
        assert await lab.bash(box, "cat deep/repo/mine") == "mine"
        for below in ("link", "link/x", "../x", "/x"):
            try:
                await lab.provider.import_archive(path, in_chunks(good), below=below)
            except InvalidRequest:
                continue
            raise AssertionError(f"a copy went to {below}")
        assert not list(lab.provider.place(path, "outputs").iterdir())
