"""Unpack a tar stream from stdin into the working directory. The sandbox is the wall; these are manners.

Exit code 0, or 1 with the reason on stdout. Members are files, directories, links that stay inside; of a
copy, which goes below a directory of its own, links as they are. A copy is made beside its place and moved
there when it is whole, unless something is there already.
"""

from __future__ import annotations

import os
import shutil
import sys
import tarfile


def main(top: str, bytes_max: int, members_max: int, below: str | None = None) -> None:
    try:
        if below is None:
            _unpack(top, top, bytes_max, members_max, keeps_links=False)
        else:
            _copy(top, _inside(top, below, "copy at"), bytes_max, members_max)
    except (_Refused, tarfile.TarError, OSError, EOFError, ValueError) as e:
        print(e)
        sys.exit(1)


class _Refused(Exception):
    pass


def _copy(top: str, place: str, bytes_max: int, members_max: int) -> None:
    _make_folders(top, os.path.dirname(place))
    if os.path.islink(place):
        raise _Refused(f"{place!r} is a link; nothing is unpacked through links")
    if os.path.isdir(place) and os.listdir(place):
        _unpack(place, top, bytes_max, members_max, keeps_links=True)
        return
    parent, name = os.path.split(place)
    partial = os.path.join(parent, f".{name}.partial")
    if os.path.lexists(partial):  # of one that broke off
        shutil.rmtree(partial)
    os.mkdir(partial)
    try:
        _unpack(partial, top, bytes_max, members_max, keeps_links=True)
        os.rename(partial, place)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _unpack(top: str, root: str, bytes_max: int, members_max: int, *, keeps_links: bool) -> None:
    """top: where members go. root: from where on no link is followed."""
    left, members = bytes_max, 0
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as archive:
        for member in archive:
            if member.size < 0:  # it would raise the budget
                raise _Refused(f"member {member.name!r} has a negative size")
            if member.issparse():  # a few bytes of it can stand for any number
                raise _Refused(f"member {member.name!r} is sparse")
            left, members = left - member.size, members + 1
            if left < 0:
                raise _Refused(f"the unpacked archive exceeds {bytes_max} bytes")
            if members > members_max:
                raise _Refused(f"the archive has more than {members_max} members")
            _unpack_member(archive, member, top, root, keeps_links=keeps_links)


def _unpack_member(
    archive: tarfile.TarFile, member: tarfile.TarInfo, top: str, root: str, *, keeps_links: bool
) -> None:
    target = _inside(top, member.name, "member")
    if target == top:
        return
    _make_folders(root, os.path.dirname(target))
    if member.isdir():
        _make_folders(root, target)
        os.chmod(target, member.mode & 0o777 | 0o700)
        return
    if os.path.lexists(target):
        if os.path.isdir(target) and not os.path.islink(target):
            raise _Refused(f"member {member.name!r} would replace a directory")
        os.unlink(target)
    if member.issym():
        if not keeps_links:
            _inside(
                top, os.path.join(os.path.dirname(member.name), member.linkname), "link to", member.linkname
            )
        os.symlink(member.linkname, target)
    elif member.islnk():
        source = _inside(top, member.linkname, "link to")
        _refuse_links(root, os.path.dirname(source))
        os.link(source, target, follow_symlinks=False)
    elif member.isreg():
        data = archive.extractfile(member)
        assert data is not None
        with open(target, "xb") as out:
            while chunk := data.read(1 << 20):
                out.write(chunk)
        os.chmod(target, member.mode & 0o777 | 0o600)
        os.utime(target, (member.mtime, member.mtime))
    else:
        raise _Refused(f"member {member.name!r} is neither file, directory nor link")


def _inside(top: str, name: str, what: str, shown: str = "") -> str:
    """The absolute path of an archive name, refused when it points out of the working directory."""
    path = os.path.normpath(os.path.join(top, name))
    if os.path.isabs(shown or name) or (path != top and not path.startswith(top + "/")):
        raise _Refused(f"{what} {shown or name!r} points outside the workspace")
    return path


def _refuse_links(top: str, folder: str) -> None:
    while folder != top:
        if os.path.islink(folder):
            raise _Refused(f"{folder!r} is a link; nothing is unpacked through links")
        folder = os.path.dirname(folder)


def _make_folders(top: str, folder: str) -> None:
    _refuse_links(top, folder)
    os.makedirs(folder, exist_ok=True)
