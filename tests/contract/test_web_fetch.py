"""Pages of a real web server, read in a real sandbox: what the model gets, and everything hostile."""

import asyncio
import gzip
import ssl
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from corral.app.errands import errands_of
from corral.catalog.web.rules import WebRules
from corral.config import Config
from corral.confine.confinement import Confinement, Places
from corral.egress.policy import OperatorHosts
from corral.hands.providers.binary import own_python
from corral.hands.way_out import Egress
from corral.kernel.ids import SessionId
from corral.testing.certificates import certificates
from corral.web.fetch import Fetcher, Page, WebFailed
from tests.gateway import Gateway
from tests.web_host import Answer, WebHost

PUBLIC = "93.184.215.14"
ANY = WebRules()
SESSION = SessionId("sesn_1")
LOCAL = {"localhost": ["127.0.0.1"]}
INSIDE = {**LOCAL, "metadata.google.internal": ["169.254.169.254"], "printer.local": ["192.168.1.7"]}


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebHost]:
    with WebHost.start(tmp_path_factory.mktemp("web")) as running:
        yield running


@pytest.fixture(scope="module")
def plain() -> Iterator[WebHost]:
    with WebHost.start() as running:
        yield running


@pytest.fixture(autouse=True)
def untouched(secure: WebHost, plain: WebHost) -> None:
    for host in (secure, plain):
        host.answers.clear()
        host.requests.clear()
        host.arrived.clear()


def operator_of(*private: str, **more: tuple[str, ...]) -> OperatorHosts:
    """private: what the setting web_private_hosts opens."""
    config = Config(data_dir=Path(), web_private_hosts=private)
    return OperatorHosts(errands=errands_of(config), **more)  # type: ignore[arg-type]


@pytest.fixture
async def gateway(secure: WebHost, plain: WebHost) -> AsyncIterator[Gateway]:
    """The way out of a server whose operator opened both hosts."""
    async with Gateway.start(names=LOCAL, operator=operator_of(secure.where, plain.where)) as gateway:
        yield gateway


@pytest.fixture
async def strict() -> AsyncIterator[Gateway]:
    """One whose operator opened none."""
    async with Gateway.start(names=INSIDE, operator=operator_of()) as gateway:
        yield gateway


Open = Callable[..., Fetcher]


@pytest.fixture
async def opened(tmp_path: Path, secure: WebHost, gateway: Gateway) -> AsyncIterator[Open]:
    made: list[Fetcher] = []

    def open_fetcher(through: Gateway = gateway, **options: object) -> Fetcher:
        given = {"authorities": secure.authority, **options}
        made.append(Fetcher(tmp_path / "web", Egress(through.data_dir), **given))  # type: ignore[arg-type]
        return made[-1]

    yield open_fetcher
    for fetcher in made:
        await fetcher.aclose()


def pdf(content: str | bytes, *, filter_: bytes = b"") -> bytes:
    """One page with this content stream."""
    drawn = content if isinstance(content, bytes) else f"BT /F1 12 Tf 10 50 Td {content} ET".encode()
    objects = (
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 100]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>",
        b"<</Length %d%s>> stream\n%s\nendstream" % (len(drawn), filter_, drawn),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
        b"<</Title(Notes)>>",
    )
    written, table = bytearray(b"%PDF-1.4\n"), b"0000000000 65535 f \n"
    for number, each in enumerate(objects, 1):
        table += b"%010d 00000 n \n" % len(written)
        written += b"%d 0 obj %s endobj\n" % (number, each)
    ends = b"xref\n0 %d\n%strailer <</Root 1 0 R/Info 6 0 R/Size %d>>\nstartxref\n%d\n%%%%EOF"
    return bytes(written) + ends % (len(objects) + 1, table, len(objects) + 1, len(written))


async def fetched(fetcher: Fetcher, url: str, rules: WebRules = ANY) -> Page:
    return await fetcher.fetch(url, rules, session_id=SESSION)


async def refused(fetcher: Fetcher, url: str, rules: WebRules = ANY) -> WebFailed:
    with pytest.raises(WebFailed) as failed:
        await fetched(fetcher, url, rules)
    return failed.value


# -- what the model gets -----------------------------------------------------------------------------------


async def test_html_becomes_markdown(secure: WebHost, opened: Open) -> None:
    url = secure.page(
        "<html><head><title>Engines &amp; <b>more</b></title><style>p{}</style></head><body>"
        "<script>steal()</script><!-- hidden --><h1>Ada</h1><p>First <b>programmer</b>,"
        ' <a href="/notes?x=1">notes</a> <a href="javascript:x()">bad</a></p>'
        "<table><tr><th>a</th></tr><tr><td>1</td></tr></table></body></html>"
    )
    page = await fetched(opened(), url, ANY)
    assert (page.url, page.media_type, page.is_cut) == (url, "text/html", False)
    assert page.title.startswith("Engines & ")
    assert "# Ada" in page.text
    assert "First **programmer**" in page.text
    assert f"[notes]({secure.url('/notes?x=1')})" in page.text
    for hidden in ("steal", "hidden", "p{}", "javascript:"):
        assert hidden not in page.text
    ((_, headers),) = secure.requests
    assert headers["Host"] == secure.where
    assert not {"Cookie", "Authorization", "Referer"} & set(headers)


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<html><head><title>t</title><body><p>one<p>two", "one\n\ntwo"),
        ("<ul><li>a<li>b<ul><li>c</ul><li>d</ul>", "- a\n- b\n  - c\n- d"),
        ("<p>before<table><tr><th>h<th>i<tr><td>1<td>2</table>", "| h | i |\n| --- | --- |\n| 1 | 2 |"),
        ("<dl><dt>term<dd>what it is</dl>", "what it is"),
        ("<b>bold<i>both</b>plain</i>", "**bold*both***plain"),
        ("<![if IE]>x<![endif]><!DOCTYPE y><?pi?>z", "z"),
        ("<base href='https://docs.example/v2/'><a href='../a'>a</a>", "[a](https://docs.example/a)"),
        ("<a href='data:text/html,x'>a</a><img src='data:image/png;base64,AAAA' alt='pic'>", "pic"),
        ("a &lt;script&gt; &amp; b", "<script>"),
        ("<svg/><div/>shown<title>t<body>all", "shownall"),
    ],
)
async def test_html_is_read_as_browsers_do(plain: WebHost, opened: Open, html: str, text: str) -> None:
    assert text in (await fetched(opened(), plain.page(html), ANY)).text


@pytest.mark.parametrize(
    ("body", "type_", "text"),
    [
        ("grüße".encode(), "text/plain; charset=utf-8", "grüße"),
        ("grüße".encode("latin-1"), "text/plain; charset=ISO-8859-1", "grüße"),
        ("grüße “x”".encode("cp1252"), "text/plain", "grüße “x”"),
        ("日本語".encode("shift_jis"), "text/plain; charset=shift_jis", "日本語"),
        (b'<meta charset="euc-jp">' + "日本語".encode("euc-jp"), "text/html", "日本語"),
        ("x".encode("utf-16"), "text/plain", "x"),
        (b'{"a": 1}', "application/json", '{"a": 1}'),
        (b"a,b", "text/csv; charset=zlib", "a,b"),
        (b"a,b", "text/csv; charset=unicode_escape", "a,b"),
        (b"plain", "", "plain"),
        (b"<!DOCTYPE html><h1>x</h1>", "application/octet-stream", "# x"),
    ],
)
async def test_text_is_decoded(plain: WebHost, opened: Open, body: bytes, type_: str, text: str) -> None:
    assert (await fetched(opened(), plain.page(body, type_=type_), ANY)).text == text


async def test_packed_content_is_unpacked(plain: WebHost, opened: Open) -> None:
    fetcher = opened()
    for packed, name in (
        (gzip.compress(b"hello"), "gzip"),
        (zlib.compress(b"hello"), "deflate"),
        (zlib.compress(b"hello")[2:-4], "deflate"),
    ):
        url = plain.page(packed, type_="text/plain", Content_Encoding=name)
        assert (await fetched(fetcher, url, ANY)).text == "hello"


async def test_the_text_of_a_page_is_bounded_in_tokens(plain: WebHost, opened: Open) -> None:
    url = plain.page("word " * 250_000, type_="text/plain")
    short = await fetched(opened(), url, WebRules(max_content_tokens=10))
    assert (len(short.text), short.is_cut) == (40, True)
    whole = await fetched(opened(), url, ANY)
    assert (len(whole.text), whole.is_cut) == (1_000_000, True)


async def test_letters_that_take_many_bytes_are_no_less_text(plain: WebHost, opened: Open) -> None:
    url = plain.page("\U0001f40e" * 900_000 + "\x01" * 100_000, type_="text/plain; charset=utf-8")
    page = await fetched(opened(), url, ANY)
    assert (len(page.text), page.text[0], page.is_cut) == (1_000_000, "\U0001f40e", False)


async def test_a_pdf_comes_as_its_text(plain: WebHost, opened: Open) -> None:
    url = plain.page(pdf("(Note G) Tj 0 -20 Td (by Ada) Tj"), type_="application/pdf")
    fetcher = opened()
    page = await fetched(fetcher, url, WebRules(max_content_tokens=1))  # not for what is no text
    assert (page.media_type, page.title) == ("application/pdf", "Notes")
    assert page.text.split() == ["Note", "G", "by", "Ada"]
    untold = plain.page(pdf("(x) Tj"), type_="application/octet-stream")
    assert (await fetched(fetcher, untold, ANY)).text == "x"


async def test_redirects_are_followed_and_judged_each_time(
    secure: WebHost, plain: WebHost, opened: Open
) -> None:
    fetcher = opened()
    end = secure.page("<p>here</p>", path="/end")
    plain.redirect(end, path="/far", status=301)
    start = plain.redirect("/far", status=307)
    page = await fetched(fetcher, start, ANY)
    assert (page.url, page.text) == (end, "here")
    loop = plain.redirect("/loop", path="/loop")
    assert (await refused(fetcher, loop)).code == "url_not_accessible"
    assert [path for path, _ in plain.requests].count("/loop") == 6


# -- where it does not go ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://localhost/",
        "http://10.0.0.1/",
        "http://192.168.1.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://100.64.0.1/",
        "http://0.0.0.0/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0177.0.0.1/",
        "http://127.1/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[fe80::1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://metadata.google.internal/",
        "http://printer.local/",
        "http://93.184.215.14:22/",
    ],
)
async def test_what_is_not_public_is_not_reached(opened: Open, strict: Gateway, url: str) -> None:
    assert (await refused(opened(strict), url)).code == "url_not_allowed"
    (entry,) = await strict.entries()
    assert (entry["session_id"], entry["method"], entry["decision"]) == (SESSION, "GET", "denied")


async def test_no_redirect_leads_inside(plain: WebHost, opened: Open) -> None:
    fetcher = opened()
    for location in (
        "http://127.0.0.1:1/",
        "http://169.254.169.254/latest/meta-data/",
        "//10.0.0.1/",
        "http://[::1]/",
    ):
        assert (await refused(fetcher, plain.redirect(location))).code == "url_not_allowed"
    for location in ("file:///etc/passwd", "ftp://example.com/", "http://user:pw@example.com/"):
        assert (await refused(fetcher, plain.redirect(location))).code == "url_not_accessible"


async def test_a_name_is_resolved_once_and_what_was_checked_is_dialled(
    plain: WebHost, opened: Open, strict: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corral.egress.dial.EGRESS_CONNECT_SECONDS", 0.5)  # nobody may answer
    fetcher = opened(strict)
    plain.page("inside")
    strict.names["rebind.example"] = [PUBLIC]
    first = await refused(fetcher, "http://rebind.example/")
    assert (first.code, strict.resolved) == ("url_not_accessible", ["rebind.example"])
    strict.names["rebind.example"] = ["127.0.0.1"]
    second = await refused(fetcher, "http://rebind.example/")
    assert (second.code, strict.resolved) == ("url_not_allowed", ["rebind.example"] * 2)
    assert plain.requests == []


async def test_a_name_that_is_both_inside_and_outside_is_refused(opened: Open, strict: Gateway) -> None:
    strict.names["mixed.example"] = [PUBLIC, "10.0.0.1"]
    failed = await refused(opened(strict), "http://mixed.example/")
    assert failed.code == "url_not_allowed"


# -- the way there -----------------------------------------------------------------------------------------


async def test_every_page_is_in_the_audit(
    secure: WebHost, plain: WebHost, opened: Open, gateway: Gateway
) -> None:
    end = secure.page("there", type_="text/plain")
    assert (await fetched(opened(), plain.redirect(end))).text == "there"
    narrow = WebRules(allowed_hosts=("example.com",))
    assert (await refused(opened(), end, narrow)).code == "url_not_allowed"
    entries = [
        (entry["session_id"], entry["host"], entry["port"], entry["method"], entry["decision"])
        for entry in await gateway.ended()
    ]
    assert entries == [
        (SESSION, "localhost", plain.port, "GET", "allowed"),
        (SESSION, "localhost", secure.port, "CONNECT", "allowed"),
        (SESSION, "localhost", secure.port, "CONNECT", "denied"),
    ]


async def test_what_the_operator_denies_is_denied_to_web_tools(
    secure: WebHost, plain: WebHost, opened: Open
) -> None:
    operator = operator_of(secure.where, plain.where, denied=("localhost",))
    async with Gateway.start(names=LOCAL, operator=operator) as gateway:
        for host in (secure, plain):
            failed = await refused(opened(gateway), host.page("x"))
            assert failed.code == "url_not_allowed" and "operator of this server denies" in failed.message
            assert host.requests == []
        assert [entry["decision"] for entry in await gateway.entries()] == ["denied"] * 2


async def test_what_is_open_to_sandboxes_is_not_to_web_tools(plain: WebHost, opened: Open) -> None:
    async with Gateway.start(names=LOCAL, operator=operator_of(internal=("*",))) as gateway:
        assert (await refused(opened(gateway), plain.page("x"))).code == "url_not_allowed"
        assert plain.requests == []


async def test_an_egress_process_that_is_away_is_waited_for(
    plain: WebHost, opened: Open, gateway: Gateway, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = plain.page("back", type_="text/plain")
    await gateway.end()
    waiting = asyncio.ensure_future(fetched(opened(), url))
    await gateway.serve()
    assert (await waiting).text == "back"
    await gateway.end()
    monkeypatch.setattr("corral.confine.way.EGRESS_AWAY_SECONDS", 0.3)
    failed = await refused(opened(), url)
    assert failed.code == "unavailable" and "egress process" in failed.message
    none = Fetcher(tmp_path / "web", None)
    assert (await refused(none, url)).code == "unavailable"
    await none.aclose()
    await gateway.serve()


async def test_the_rules_of_the_call_bind_redirects_too(
    secure: WebHost, plain: WebHost, opened: Open
) -> None:
    start = plain.redirect("https://example.com/")
    allowed = WebRules(allowed_domains=("localhost",))
    assert (await refused(opened(), start, allowed)).code == "url_not_allowed"
    blocked = WebRules(blocked_domains=("localhost",))
    assert (await refused(opened(), plain.page("x"), blocked)).code == "url_not_allowed"
    limited = WebRules(allowed_hosts=())
    assert (await refused(opened(), plain.page("x"), limited)).code == "url_not_allowed"


async def test_a_certificate_that_nobody_signed_is_refused(secure: WebHost, opened: Open) -> None:
    failed = await refused(opened(authorities=None), secure.page("x"))
    assert failed.code == "url_not_accessible"
    assert "certificate" in failed.message
    assert secure.requests == []


# -- hostile answers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (Answer(status=404), "url_not_accessible"),
        (Answer(status=500), "url_not_accessible"),
        (Answer(headers={"Content-Type": "image/png"}), "unsupported_content_type"),
        (
            Answer(headers={"Content-Type": "text/html", "Content-Encoding": "br"}),
            "unsupported_content_type",
        ),
        (Answer(body=b"a\0b", headers={}), "unsupported_content_type"),
        (
            Answer(body=b"%PDF-1.7 broken", headers={"Content-Type": "application/pdf"}),
            "unsupported_content_type",
        ),
        (
            Answer(headers={"Content-Type": "text/plain", "Content-Length": str(2**40)}),
            "content_too_large",
        ),
        (
            Answer(
                body=gzip.compress(b"0" * 50_000_000),
                headers={"Content-Type": "text/plain", "Content-Encoding": "gzip"},
            ),
            "content_too_large",
        ),
        (
            Answer(body=b"not gzip", headers={"Content-Type": "text/plain", "Content-Encoding": "gzip"}),
            "url_not_accessible",
        ),
        (
            Answer(headers={"X-Long": "x" * 70_000}),
            "url_not_accessible",
        ),
    ],
)
async def test_an_answer_that_is_no_page(plain: WebHost, opened: Open, answer: Answer, code: str) -> None:
    plain.answers["/"] = answer
    assert (await refused(opened(), plain.url())).code == code


async def test_hostile_html_is_read_as_far_as_it_goes(plain: WebHost, opened: Open) -> None:
    fetcher = opened()
    for body in (
        "<div>" * 20_000 + "words",
        "<b><i>" * 20_000 + "words",
        f'<p a="{"x" * 1_500_000}">words</p>',
        "<p " + "a=1 " * 50_000 + ">words</p>",
        "<table>" * 5_000 + "words",
        "words" + "&amp;" * 100_000,
        "words<!--" + "x" * 100_000,
    ):
        assert "words" in (await fetched(fetcher, plain.page(body), ANY)).text


@pytest.mark.parametrize(
    "body",
    [
        b"%PDF-1.7",
        b"%PDF-1.7" + b"\xff" * 50_000,
        b"%PDF-1.7\n" + b"1 0 obj<</Type/Catalog/Pages 1 0 R/Kids[1 0 R]>>endobj trailer<</Root 1 0 R>>",
        b"%PDF-1.7\n" + b"1 0 obj" + b"[" * 50_000,
        b"%PDF-1.7\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj"
        b" 2 0 obj<</Type/Pages/Kids[2 0 R]/Count 9>>endobj trailer<</Root 1 0 R>>",
    ],
)
async def test_a_broken_pdf_is_an_error(plain: WebHost, opened: Open, body: bytes) -> None:
    failed = await refused(opened(seconds=60), plain.page(body, type_="application/pdf"))
    assert failed.code in ("unsupported_content_type", "content_too_large")


async def test_a_pdf_that_unpacks_without_end_is_given_up(plain: WebHost, opened: Open) -> None:
    endless = zlib.compress(b"BT (x) Tj ET " * 4_000_000, 9)
    body = pdf(endless, filter_=b"/Filter/FlateDecode")
    failed = await refused(opened(seconds=3), plain.page(body, type_="application/pdf"))
    assert failed.code in ("content_too_large", "url_not_accessible", "unsupported_content_type")


async def test_a_redirect_may_be_spelt_in_utf_8(plain: WebHost, opened: Open) -> None:
    plain.page("there", path="/gr%C3%BC%C3%9Fe", type_="text/plain")
    start = plain.redirect("/grüße".encode().decode("latin-1"), path="/start")
    assert (await fetched(opened(), start, ANY)).text == "there"


async def test_what_a_server_says_in_an_error_is_plain_text(opened: Open, tmp_path: Path) -> None:
    authority, *certificate = certificates(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"\0\x1b[2J\x9bwhat\xad\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    where = f"localhost:{server.sockets[0].getsockname()[1]}"
    async with server, Gateway.start(names=LOCAL, operator=operator_of(where)) as gateway:
        failed = await refused(opened(gateway, authorities=authority), f"https://{where}/")
    assert "what" in failed.message and failed.message.isprintable()


async def test_what_takes_the_program_over_starts_and_writes_nothing(tmp_path: Path) -> None:
    confinement = Confinement(tmp_path / "data", modules=["corral.web.inside"], python=own_python)
    program = """
import os, subprocess, threading
from corral.web.inside.fetch import keep_within
def tried(what):
    try:
        return what()
    except (OSError, RuntimeError) as error:
        return type(error).__name__
keep_within({"memory_bytes": 1 << 29, "cpu_seconds": 9})
print(tried(os.fork), tried(lambda: subprocess.run(["true"])), tried(threading.Thread(target=print).start))
print(tried(lambda: os.write(os.open("/tmp/x", os.O_CREAT | os.O_WRONLY), b"x")))
"""
    async with confinement.python(program, places=Places()) as process:
        said = (await process.reader.read()).decode().split()
    await confinement.aclose()
    assert said == ["BlockingIOError", "BlockingIOError", "RuntimeError", "OSError"]


async def test_a_slow_drip_ends_at_the_bound_and_a_cancel_ends_it_at_once(
    plain: WebHost, opened: Open
) -> None:
    plain.answers["/"] = Answer(body=b"x", headers={"Content-Type": "text/plain"}, drip=0.1)
    failed = await refused(opened(seconds=2), plain.url())
    assert (failed.code, "2 s" in failed.message) == ("url_not_accessible", True)
    plain.arrived.clear()
    fetching = asyncio.ensure_future(fetched(opened(), plain.url()))
    assert await asyncio.to_thread(plain.arrived.wait, 60)
    fetching.cancel()
    async with asyncio.timeout(60):
        with pytest.raises(asyncio.CancelledError):
            await fetching
