"""Files through the official SDK, unmodified, and what it would never send."""

import asyncio
import socket
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from io import BytesIO
from typing import Any

import anthropic
import httpx2
import pytest

from corral.catalog.files import FileRecord, new_upload
from corral.kernel.ids import DEFAULT_WORKSPACE, FileId, SessionId, WorkspaceId
from corral.kernel.limits import FILE_BYTES_MAX
from corral.testing.contract_blobs import chunks
from tests.sdk.conftest import Server, eventually
from tests.served import WAIT_SECONDS

SCOPED = {"anthropic-beta": "managed-agents-2026-04-01"}
BOUNDARY = "b0undary"


@pytest.fixture
def strict(server: Server) -> Iterator[anthropic.Anthropic]:
    with server.client(_strict_response_validation=True) as made:
        yield made


def output(server: Server, session_id: str, path: str, content: bytes) -> FileRecord:
    return server.run(server.deps.files.put_output(SessionId(session_id), path, chunks(content)))


def stored(server: Server) -> set[str]:
    """Keys of all blobs that are there, but for those that are on their way out."""

    async def keys() -> set[str]:
        return {blob.key async for blob in server.blobs.keys("")}

    return server.run(keys()) - server.run(going(server))


async def going(server: Server) -> set[str]:
    from corral.store.files import UnneededBlobRows

    return set(await UnneededBlobRows(server.database).going(limit=10_000))


def test_a_file_comes_and_goes(strict: anthropic.Anthropic) -> None:
    for files in (strict.files, strict.beta.files):
        made = files.upload(file=("données 🐂.csv", b"a,b\n", "text/csv"))
        assert (made.filename, made.mime_type, made.size_bytes) == ("données 🐂.csv", "text/csv", 4)
        assert (made.downloadable, made.expires_at, made.type) == (False, None, "file")
        assert files.retrieve_metadata(made.id) == made
        with pytest.raises(anthropic.BadRequestError) as refused:
            files.download(made.id)
        assert refused.value.error_code == "file_not_downloadable"
        deleted = files.delete(made.id)
        assert (deleted.id, deleted.type) == (made.id, "file_deleted")
        for gone in (files.retrieve_metadata, files.download, files.delete):
            with pytest.raises(anthropic.NotFoundError):
                gone(made.id)


async def test_the_async_client(server: Server) -> None:
    async with server.async_client(_strict_response_validation=True) as client:
        made = await client.beta.files.upload(file=("a.txt", BytesIO(b"x" * 3_000_000)))
        assert (made.size_bytes, made.mime_type) == (3_000_000, "text/plain")
        page = await client.beta.files.list(limit=1)
        assert page.data[0].id == made.id
        assert (await client.files.list(ids=[made.id])).data[0].id == made.id
        assert await client.beta.files.retrieve_metadata(made.id) == made
        assert (await client.beta.files.delete(made.id)).id == made.id


@pytest.mark.parametrize(
    ("sent", "kind", "kept", "stored_kind"),
    [
        ("../../etc/passwd", "text/plain", "passwd", "text/plain"),
        ("C:\\data\\a.csv", None, "a.csv", "text/csv"),
        ("", "application/pdf", "unnamed.pdf", "application/pdf"),
        ("", None, "unnamed", "application/octet-stream"),
        ("dir/", "image/png", "unnamed.png", "image/png"),
        ("a.md", "application/octet-stream", "a.md", "text/markdown"),
        ("a.tar.gz", None, "a.tar.gz", "application/octet-stream"),
        ("a", "Text/HTML; charset=utf-8", "a", "text/html"),
        ("a.csv", "no type at all", "a.csv", "text/csv"),
        ("x" * 255, "text/plain", "x" * 255, "text/plain"),
    ],
)
def test_names_and_types(
    http: httpx2.Client, sent: str, kind: str | None, kept: str, stored_kind: str
) -> None:
    made = post(http, part("file", b"x", filename=sent, kind=kind)).json()
    assert (made["filename"], made["mime_type"]) == (kept, stored_kind)


@pytest.mark.parametrize("name", ["x" * 256, "a:b", "a%0Ab", "a*", "a<b", "..", "a\0b", "a|b"])
def test_names_that_no_file_system_takes(http: httpx2.Client, server: Server, name: str) -> None:
    before = stored(server)
    refused = post(http, part("file", b"x", filename=name))
    assert refused.status_code == 400, refused.text
    assert "filename" in refused.json()["error"]["message"]
    assert stored(server) == before


def test_lists(strict: anthropic.Anthropic, server: Server, session_id: str) -> None:
    made = [strict.beta.files.upload(file=(f"{number}", b"x")).id for number in range(5)][::-1]
    scoped = output(server, session_id, "a.txt", b"out").file_id
    everything = [scoped, *made]
    assert [each.id for each in strict.beta.files.list()][:6] == everything
    assert [each.id for each in strict.files.list(limit=2)][:6] == everything
    first = strict.beta.files.list(limit=2)
    assert first.next_page is not None and first.next_page.startswith("page_")
    assert [each.id for each in strict.beta.files.list(limit=2, page=first.next_page).data] == everything[
        2:4
    ]
    [mine] = strict.beta.files.list(scope_id=session_id, betas=["managed-agents-2026-04-01"]).data
    assert mine.id == scoped and mine.scope is not None and mine.scope.id == session_id
    assert strict.beta.files.list(scope_id="sesn_none").data == []
    page = strict.beta.files.list(ids=[made[3], "file_none", made[0], made[0], scoped])
    assert ([each.id for each in page.data], page.next_page) == ([scoped, made[0], made[3]], None)
    assert [each.id for each in strict.beta.files.list(ids=[made[0], scoped], scope_id=session_id)] == [
        scoped
    ]
    # As SDKs before 2 page.
    old: Any = strict.get(
        "/v1/files", cast_to=object, options={"params": {"limit": 2, "after_id": made[0]}}
    )
    assert [each["id"] for each in old["data"]] == made[1:3]
    assert (old["has_more"], old["first_id"], old["last_id"]) == (True, made[1], made[2])
    params = {"limit": 2, "before_id": made[3]}
    back: Any = strict.get("/v1/files", cast_to=object, options={"params": params})
    assert ([each["id"] for each in back["data"]], back["has_more"]) == (made[1:3], True)


@pytest.mark.parametrize(
    "query",
    [
        "limit=0", "limit=1001", "limit=x", "page=", "page=page_", "page=page_x", "page=page_W10",
        "ids[]=a&limit=1", "ids[]=a&page=x", "after_id=file_none", "before_id=a&after_id=b", "scope=x",
        "page=page_a%00b",
        "&".join(f"ids[]=file_{number}" for number in range(101)),
    ],
)  # fmt: skip
def test_lists_that_are_refused(http: httpx2.Client, query: str) -> None:
    refused = http.get(f"/v1/files?{query}")
    assert refused.status_code == 400, refused.text


def test_files_of_another_workspace(server: Server, http: httpx2.Client) -> None:
    async def theirs() -> FileRecord:
        received = await server.deps.files.receive(chunks(b"theirs"))
        record = new_upload(
            file_id=FileId(server.deps.ids.mint("file")), workspace_id=WorkspaceId("wrkspc_other"),
            filename="a", mime_type=None, size_bytes=received.size_bytes, sha256=received.sha256,
            blob_key=received.blob_key, expires_in_seconds=None, now=server.deps.clock.now(),
        )  # fmt: skip
        return await server.deps.files.table.add(record)

    file_id = server.run(theirs()).file_id
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/content"), ("HEAD", "/content")):
        assert http.request(method, f"/v1/files/{file_id}{path}").status_code == 404
    assert http.get(f"/v1/files?ids[]={file_id}").json()["data"] == []
    assert file_id not in http.get("/v1/files?limit=1000").text
    assert http.get(f"/v1/files?after_id={file_id}").status_code == 400


def test_expiry(strict: anthropic.Anthropic, server: Server) -> None:
    made = strict.beta.files.upload(file=b"x", expires_in_seconds=3600)
    assert made.expires_at == made.created_at + timedelta(hours=1)

    async def expire() -> None:
        table = server.deps.files.table
        record = await table.read(DEFAULT_WORKSPACE, FileId(made.id))
        await table.delete(DEFAULT_WORKSPACE, record.file_id)
        past = datetime.now(UTC) - timedelta(seconds=1)
        received = await server.deps.files.receive(chunks(b"x"))
        await table.add(replace(record, expires_at=past, blob_key=received.blob_key))

    server.run(expire())
    with pytest.raises(anthropic.NotFoundError) as gone:
        strict.beta.files.download(made.id)
    assert gone.value.error_code == "file_expired"
    assert strict.beta.files.retrieve_metadata(made.id).size_bytes == 1
    assert strict.beta.files.delete(made.id).id == made.id
    for seconds in (3599, 7_776_001, -1):
        with pytest.raises(anthropic.BadRequestError, match="expires_in_seconds"):
            strict.beta.files.upload(file=b"x", expires_in_seconds=seconds)


def test_outputs_are_downloaded(
    strict: anthropic.Anthropic, http: httpx2.Client, server: Server, session_id: str
) -> None:
    content = bytes(range(256)) * 10_000
    record = output(server, session_id, "plots/ä.bin", content)
    for files in (strict.files, strict.beta.files):
        assert files.download(record.file_id).read() == content
    path = f"/v1/files/{record.file_id}/content"
    whole = http.get(path)
    assert whole.status_code == 200 and whole.content == content
    assert whole.headers["content-length"] == str(len(content))
    assert whole.headers["accept-ranges"] == "bytes"
    assert whole.headers["content-disposition"] == "attachment; filename*=UTF-8''%C3%A4.bin"
    assert whole.headers["x-content-type-options"] == "nosniff"
    size, etag = len(content), whole.headers["etag"]
    assert etag == f'"{sha256(content).hexdigest()}"'
    for asked, first, last in (
        ("bytes=0-0", 0, 0), ("bytes=10-19", 10, 19), (f"bytes={size - 5}-", size - 5, size - 1),
        ("bytes=-7", size - 7, size - 1), (f"bytes=1-{size * 2}", 1, size - 1),
        (f"bytes=-{size * 2}", 0, size - 1), ("bytes=1048570-1048585", 1048570, 1048585),
    ):  # fmt: skip
        part = http.get(path, headers={"range": asked})
        assert part.status_code == 206, asked
        assert part.headers["content-range"] == f"bytes {first}-{last}/{size}"
        assert part.content == content[first : last + 1]
        assert part.headers["content-length"] == str(len(part.content))
        head = http.head(path, headers={"range": asked})
        assert (head.status_code, head.content) == (206, b"")
        assert head.headers["content-range"] == part.headers["content-range"]
    for asked in (f"bytes={size}-", "bytes=-0", f"bytes={10**17}-{10**18 - 1}"):
        beyond = http.get(path, headers={"range": asked})
        assert beyond.status_code == 416, asked
        assert beyond.headers["content-range"] == f"bytes */{size}"
        assert beyond.json()["error"]["type"] == "invalid_request_error"
    for asked in ("bytes=5-4", "bytes=0-1,3-4", "lines=1-2", "bytes=", "bytes=-", "bytes=a-b", "1-2"):
        assert http.get(path, headers={"range": asked}).status_code == 200, asked
    fresh = http.get(path, headers={"range": "bytes=0-0", "if-range": etag})
    assert fresh.status_code == 206
    stale = http.get(path, headers={"range": "bytes=0-0", "if-range": '"other"'})
    assert stale.status_code == 200
    head = http.head(path)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(size))
    assert http.head(f"/v1/files/{record.file_id}").status_code == 200
    assert http.head("/v1/files/file_none").status_code == 404
    empty = output(server, session_id, "empty", b"")
    assert strict.files.download(empty.file_id).read() == b""
    assert http.get(f"/v1/files/{empty.file_id}/content", headers={"range": "bytes=0-"}).status_code == 416
    strict.beta.sessions.delete(session_id)
    assert http.get(path).status_code == 404


def test_an_upload_takes_effect_once(http: httpx2.Client, server: Server) -> None:
    """Whatever boundary the repeat has; what was stored for it goes."""
    once = {"idempotency-key": "upload-1"}
    first = post(http, part("file", b"once", filename="a"), headers=once)
    kept = stored(server)
    again = post(http, part("file", b"once", filename="a"), headers=once, boundary="another")
    assert again.json() == first.json() and again.headers["idempotent-replayed"] == "true"
    for other in (part("file", b"twice", filename="a"), part("file", b"once", filename="b")):
        refused = post(http, other, headers=once)
        assert refused.status_code == 409
    assert stored(server) == kept
    malformed = post(http, part("file", b"x"), headers={"idempotency-key": "x" * 300})
    assert malformed.status_code == 400
    path = f"/v1/files/{first.json()['id']}"
    gone = [http.delete(path, headers={"idempotency-key": "delete-1"}) for _ in range(2)]
    assert [each.status_code for each in gone] == [200, 200]
    assert http.delete(path).status_code == 404


def test_twins_of_an_upload(server: Server) -> None:
    """At once: one has the effect, and the bytes of the others go."""
    before = stored(server)

    async def twins() -> list[httpx2.Response]:
        headers = {"x-api-key": server.key, "idempotency-key": "twins"}
        async with httpx2.AsyncClient(base_url=server.url, headers=headers, timeout=WAIT_SECONDS) as client:
            files = {"file": ("a", b"x" * 100_000)}
            return await asyncio.gather(*(client.post("/v1/files", files=files) for _ in range(6)))

    answers = asyncio.run(twins())
    ids = {each.json()["id"] for each in answers if each.status_code == 200}
    assert len(ids) == 1
    assert {each.status_code for each in answers} <= {200, 409}
    assert len(stored(server) - before) == 1


# -- what the SDK would not send -------------------------------------------------------------------------


def part(name: str, content: bytes, *, filename: str | None = "a.txt", kind: str | None = None) -> bytes:
    shown = "" if filename is None else f'; filename="{filename}"'
    line = "" if kind is None else f"Content-Type: {kind}\r\n"
    head = f'Content-Disposition: form-data; name="{name}"{shown}\r\n{line}\r\n'
    return head.encode() + content


def form(*parts: bytes, boundary: str = BOUNDARY) -> bytes:
    mark = f"--{boundary}".encode()
    return b"".join(mark + b"\r\n" + each + b"\r\n" for each in parts) + mark + b"--\r\n"


def post(
    http: httpx2.Client, *parts: bytes, boundary: str = BOUNDARY, headers: dict[str, str] | None = None
) -> httpx2.Response:
    kind = {"content-type": f"multipart/form-data; boundary={boundary}"}
    return http.post(
        "/v1/files", content=form(*parts, boundary=boundary), headers={**kind, **(headers or {})}
    )


FILE = part("file", b"x")
SOON = part("expires_in_seconds", b"3600", filename=None)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "file: Field required"),
        ([SOON], "file: Field required"),
        ([FILE, FILE], "file: given twice"),
        ([FILE, SOON, SOON], "expires_in_seconds: given twice"),
        ([SOON, FILE, part("purpose", b"x", filename=None)], "purpose: Extra inputs"),
        ([part("", b"x")], "Extra inputs"),
        ([b"Content-Disposition: form-data; filename=a\r\n\r\nx"], "Extra inputs"),
        ([b"Content-Type: text/plain\r\n\r\nx"], "Missing Content-Disposition"),
        ([b"\r\nx"], "Missing Content-Disposition"),
        ([b"no header\r\n\r\nx"], "Malformed segment header"),
        ([b"Content-Disposition: attachment; name=file\r\n\r\nx"], "Wrong type"),
        ([b"X: " + b"y" * 10_000 + b"\r\n\r\nx"], "header length exceeded"),
        ([b"X: y\r\n" * 9 + b"\r\nx"], "header count exceeded"),
        ([part("x" * 9, b"x", filename="f" * 5_000)], "header length exceeded"),
        ([b"Content-Disposition: form-data; name=\xff\r\n\r\nx"], "decode"),
        ([FILE, part("expires_in_seconds", b"9" * 2_000, filename=None)], "more than 1024 bytes"),
        ([FILE, part("expires_in_seconds", b"\xff", filename=None)], "not UTF-8"),
        ([FILE, part("expires_in_seconds", b"1e4", filename=None)], "whole number"),
        ([FILE, part("expires_in_seconds", b"", filename=None)], "whole number"),
        ([FILE, part("expires_in_seconds", "３６００".encode(), filename=None)], "whole number"),
        ([FILE, part("expires_in_seconds", b"60", filename=None)], "from 3600"),
    ],
)  # fmt: skip
def test_hostile_forms(http: httpx2.Client, server: Server, parts: list[bytes], message: str) -> None:
    before = stored(server)
    refused = post(http, *parts)
    assert refused.status_code == 400, refused.text
    assert message in refused.json()["error"]["message"]
    assert stored(server) == before


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (None, form(FILE)),
        ("application/json", b"{}"),
        ("multipart/form-data", form(FILE)),
        ("multipart/form-data; boundary=", form(FILE)),
        (f"multipart/form-data; boundary={'b' * 71}", form(FILE, boundary="b" * 71)),
        ("multipart/mixed; boundary=" + BOUNDARY, form(FILE)),
        ("multipart/form-data; boundary=other", form(FILE)),
        ("multipart/form-data; boundary=" + BOUNDARY, b""),
        ("multipart/form-data; boundary=" + BOUNDARY, form(FILE)[:-6]),
        ("multipart/form-data; boundary=" + BOUNDARY, form(FILE).replace(b"\r\n", b"\n")),
        ("multipart/form-data; boundary=" + BOUNDARY, b"--" + BOUNDARY.encode() + b"--\r\n"),
        ("multipart/form-data; boundary=" + BOUNDARY, b"x" + form(FILE)),
    ],
)  # fmt: skip
def test_bodies_that_are_no_form(
    http: httpx2.Client, server: Server, kind: str | None, body: bytes
) -> None:
    before = stored(server)
    headers = {} if kind is None else {"content-type": kind}
    refused = http.post("/v1/files", content=body, headers=headers)
    assert refused.status_code == 400, refused.text
    assert stored(server) == before


def test_forms_that_are_taken(http: httpx2.Client) -> None:
    kind = f'Multipart/Form-Data; charset=utf-8; boundary="{BOUNDARY}"'
    for body in (
        b"a preamble\r\n" + form(FILE) + b"an epilogue",
        form(part("file", b"", filename="empty.txt")),
        form(part("file", b"\r\n--b0undar\r\n--", filename=None)),
        form(SOON, FILE),
        form(FILE, SOON),
    ):
        made = http.post("/v1/files", content=body, headers={"content-type": kind})
        assert made.status_code == 200, made.text


def test_every_way_to_cut_a_form(http: httpx2.Client, server: Server) -> None:
    """The body in two pieces, split anywhere: chunks of the network say nothing."""
    content = b"--b0undary\r\n\r--b0undary\n"
    body = form(part("file", content, kind="text/plain"), SOON)
    kind = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
    for at in range(1, len(body)):
        pieces = iter([body[:at], body[at:]])
        made = http.post("/v1/files", content=pieces, headers=kind)
        assert made.json().get("size_bytes") == len(content), (at, made.text)


def test_a_file_that_is_too_large(http: httpx2.Client, server: Server) -> None:
    """The bound is named before a byte is read."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=WAIT_SECONDS) as raw:
        raw.sendall(
            f"POST /v1/files HTTP/1.1\r\nHost: {host}\r\nx-api-key: {server.key}\r\n"
            f"Content-Type: multipart/form-data; boundary=b\r\n"
            f"Content-Length: {FILE_BYTES_MAX + 10**6}\r\n\r\n".encode()
        )
        answer = b""
        while str(FILE_BYTES_MAX).encode() not in answer:  # head and body may come apart
            received = raw.recv(65536)
            assert received, answer
            answer += received
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_an_upload_that_is_cut_off(server: Server) -> None:
    before = stored(server)
    host, port = server.url.removeprefix("http://").split(":")
    body = form(part("file", b"x" * 5_000_000))
    for sent in (len(body) - 1, 200, 40):
        with socket.create_connection((host, int(port)), timeout=WAIT_SECONDS) as raw:
            raw.sendall(
                f"POST /v1/files HTTP/1.1\r\nHost: {host}\r\nx-api-key: {server.key}\r\n"
                f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
                f"Content-Length: {len(body)}\r\n\r\n".encode()
            )
            raw.sendall(body[:sent])
    incoming = server.blobs._root / "~incoming"
    eventually(lambda: list(incoming.iterdir()) == [] and server.deps.admission.requests == 0)
    assert stored(server) == before


def test_an_upload_that_comes_too_slowly(server: Server) -> None:
    """A trickle that would never end is ended; how fast a body has to come is said at the gate."""
    from starlette.requests import Request

    from corral.api.multipart import Multipart
    from corral.kernel.errors import InvalidRequest

    body = form(part("file", b"x" * 1000))

    async def take(pause: float, **bounds: float) -> None:
        position = 0

        async def receive() -> dict[str, Any]:
            nonlocal position
            await asyncio.sleep(pause)
            position += 1
            return {"type": "http.request", "body": body[position - 1 : position], "more_body": True}

        kind = f"multipart/form-data; boundary={BOUNDARY}".encode()
        scope = {"type": "http", "method": "POST", "headers": [(b"content-type", kind)]}
        upload = Multipart(Request(scope, receive), **bounds)
        await upload.next()
        async for _ in upload.chunks():
            pass

    with pytest.raises(InvalidRequest, match="takes too long"):
        asyncio.run(take(0.01, seconds_max=0.2))


def test_more_uploads_than_the_server_takes(server: Server) -> None:
    from corral.api.uploads import Uploading
    from corral.kernel.errors import Overloaded

    async def overload() -> None:
        with pytest.raises(Overloaded):
            await Uploading(server.deps.files, at_once_max=0).read(None, DEFAULT_WORKSPACE)  # type: ignore[arg-type]

    server.run(overload())


def test_the_quota(strict: anthropic.Anthropic, server: Server) -> None:
    before = stored(server)
    table: Any = server.deps.files.table
    kept, table._bytes_max = table._bytes_max, 10
    try:
        with pytest.raises(anthropic.BadRequestError) as refused:
            strict.beta.files.upload(file=b"x" * 11)
        assert refused.value.error_code == "storage_quota_exceeded"
    finally:
        table._bytes_max = kept
    assert stored(server) == before
    assert strict.beta.files.upload(file=b"x" * 11).size_bytes == 11
