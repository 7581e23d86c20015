"""Trees that an agent writes, hostile ones: whatever is in them, only what is theirs is opened."""

import ctypes
import os
import socket
import stat
import threading
import time
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

import pytest

from corral.hands.trees import TreeEntry, open_file, put_file, remove_file, walk
from corral.hands.wire import TreeNews, decode_path, decode_tree, encode_path, encode_tree
from corral.kernel.errors import InvalidRequest, NotFound
from corral.kernel.limits import TREE_DEPTH_MAX, TREE_ENTRIES_MAX, TREE_PATHS_BYTES_MAX

SECRET = b"of the host"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_bytes(SECRET)
    return folder


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    root.mkdir()
    return root


def read(root: Path, path: str) -> bytes:
    fd, entry = open_file(root, path)
    with os.fdopen(fd, "rb") as file:
        assert entry.path == path
        return file.read()


def paths(root: Path) -> list[str]:
    return sorted(entry.path for entry in walk(root).entries)


def test_only_regular_files_are_there(tree: Path, outside: Path) -> None:
    (tree / "a").write_text("1")
    (tree / "d").mkdir()
    (tree / "d" / "b").write_text("2")
    os.link(tree / "a", tree / "hard")
    (tree / "link").symlink_to(outside / "secret")
    (tree / "links").symlink_to(outside)
    (tree / "loop").symlink_to(tree)
    (tree / "proc").symlink_to("/proc/self/environ")
    os.mkfifo(tree / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tree / "sock"))
    if os.geteuid() == 0:
        os.mknod(tree / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    odd = Path(os.fsdecode(os.fsencode(tree) + b"/\xff\xfe/\n\x80"))
    odd.parent.mkdir()
    odd.write_text("3")
    (tree / ("n" * 255)).write_text("4")
    found = walk(tree)
    assert found.is_whole
    odd_path = os.fsdecode(b"\xff\xfe/\n\x80")
    assert paths(tree) == sorted(["a", "d/b", "hard", "n" * 255, odd_path])
    assert decode_tree(encode_tree(TreeNews(tree=found, note={}, version=0))).tree == found
    assert read(tree, odd_path) == b"3" and read(tree, "d/b") == b"2"
    for path in (
        *("link", "links/secret", "loop/a", "proc", "pipe", "sock", "zero", "d", "none", "a/b"),
        *(
            "",
            "/",
            "..",
            "../outside/secret",
            "d/../../outside/secret",
            "./a",
            "d//b",
            "a\0",
            "x/" * 5000 + "x",
        ),
        str(outside / "secret"),
    ):
        with pytest.raises(NotFound):
            open_file(tree, path)


def test_every_walk_ends(tree: Path) -> None:
    folder = os.open(tree, os.O_RDONLY)
    for _ in range(20):  # a path that no system call takes
        os.mkdir("d" * 250, dir_fd=folder)
        folder, parent = os.open("d" * 250, os.O_RDONLY, dir_fd=folder), folder
        os.close(parent)
    os.close(os.open("x", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
    os.close(folder)
    for number in range(TREE_DEPTH_MAX + 20):
        (tree / "/".join(["e"] * (number + 1))).mkdir()
    (tree / "/".join(["e"] * (TREE_DEPTH_MAX + 19)) / "x").write_text("far")
    (tree / "near").write_text("near")
    assert (paths(tree), walk(tree).is_whole) == (["near"], False)


def test_too_many_entries_are_not_looked_at(tree: Path) -> None:
    (tree / "many").mkdir()
    folder = os.open(tree / "many", os.O_RDONLY)
    for number in range(100_000):
        os.mkfifo(str(number), dir_fd=folder) if number % 50 else os.close(
            os.open(str(number), os.O_CREAT | os.O_WRONLY, dir_fd=folder)
        )
    os.close(folder)
    found = walk(tree)
    assert not found.is_whole and len(found.entries) < TREE_ENTRIES_MAX


def test_times_that_no_clock_shows_travel(tree: Path) -> None:
    (tree / "a").write_text("1")
    for second in (-(2**40), 0, 2**40):
        os.utime(tree / "a", (second, second))
        found = walk(tree)
        assert decode_tree(encode_tree(TreeNews(tree=found, note={}, version=0))).tree == found


def test_a_locked_tree_is_no_empty_one(tree: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root opens everything")
    (tree / "d").mkdir(mode=0)
    assert not walk(tree).is_whole


def test_long_names_of_many_files_end_the_walk_and_cost_little(tree: Path) -> None:
    folder = tree / ("d" * 250) / ("e" * 250) / ("f" * 250)
    folder.mkdir(parents=True)
    name = os.fsencode(folder) + b"/" + 200 * b"\xff"
    for number in range(TREE_PATHS_BYTES_MAX // 950 + 2):
        os.close(os.open(name + b"%06d" % number, os.O_CREAT | os.O_WRONLY))
    found = walk(tree)
    named = sum(len(os.fsencode(entry.path)) for entry in found.entries)
    assert not found.is_whole and TREE_PATHS_BYTES_MAX - 1_000 < named <= TREE_PATHS_BYTES_MAX


def test_paths_travel_as_ever_and_fast() -> None:
    for path in ("a b/c~d-e_f.g", "%41%zz%", "\xe4\u20ac?&=+", os.fsdecode(bytes(range(1, 256)))):
        assert encode_path(path) == quote_from_bytes(os.fsencode(path), safe="/ ")
        assert decode_path(encode_path(path)) == path
        assert decode_path(encode_path(path).lower()) == os.fsdecode(
            unquote_to_bytes(encode_path(path).lower())
        )
    long = os.fsdecode(TREE_PATHS_BYTES_MAX * b"\xff")
    begin = time.thread_time()
    assert decode_path(encode_path(long)) == long
    middle = time.thread_time()
    assert os.fsdecode(unquote_to_bytes(quote_from_bytes(os.fsencode(long)))) == long
    assert middle - begin < 0.7 * (time.thread_time() - middle)


class Swapper:
    """Exchanges a directory and a link to another, and back, for as long as it runs."""

    def __init__(self, place: Path, target: Path) -> None:
        self._place = os.fsencode(place)
        link = place.with_name("link")
        link.symlink_to(target)
        self._link = os.fsencode(link)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.swaps = 0

    def __enter__(self) -> "Swapper":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def _run(self) -> None:
        at_fdcwd, exchange = -100, 2
        renameat2 = ctypes.CDLL(None).renameat2
        while not self._ends.is_set():
            assert renameat2(at_fdcwd, self._place, at_fdcwd, self._link, exchange) == 0
            self.swaps += 1


def test_a_directory_that_turns_into_a_link_leads_nowhere(tree: Path, outside: Path) -> None:
    (tree / "d").mkdir()
    (tree / "d" / "secret").write_text("of the agent")
    outcomes = set()
    before = sorted(outside.iterdir())
    with Swapper(tree / "d", outside) as swapper:
        rounds = 0
        while rounds < 3000 or (swapper.swaps < 200 and rounds < 200_000):
            rounds += 1
            time.sleep(0)  # the swapper's turn
            try:
                outcomes.add(read(tree, "d/secret"))
            except NotFound:
                outcomes.add(b"not there")
            for entry in walk(tree).entries:
                assert entry.size != len(SECRET), "the walk left the tree"
            try:
                put_file(tree, "d/new", b"planted", staging=tree.parent / "staging", owner=None)
                remove_file(tree, "d/new")
            except InvalidRequest:
                outcomes.add(b"in the way")
    assert b"of the agent" in outcomes and SECRET not in outcomes
    assert sorted(outside.iterdir()) == before and (outside / "secret").read_bytes() == SECRET
    assert not (tree.parent / "staging").exists()


def test_what_is_written_replaces_links_and_follows_none(tree: Path, outside: Path) -> None:
    (tree / "link").symlink_to(outside / "secret")
    (tree / "links").symlink_to(outside)
    (tree / "dir").mkdir()
    staging = tree.parent / "staging"

    def put(path: str) -> TreeEntry:
        return put_file(tree, path, b"ours", staging=staging, owner=None)

    assert put("a/b/c").size == 4 and read(tree, "a/b/c") == b"ours"
    assert put("link").path == "link" and read(tree, "link") == b"ours"
    for path in ("links/secret", "links/new", "dir", "link/x"):
        with pytest.raises(InvalidRequest):
            put(path)
        assert not staging.exists()
    remove_file(tree, "a/b/c")
    assert not (tree / "a").exists(), "directories that are empty go with their last file"
    for path in ("links/secret", "dir", "none", "none/x", "../outside/secret"):
        remove_file(tree, path)
    assert (outside / "secret").read_bytes() == SECRET and (tree / "dir").is_dir()
