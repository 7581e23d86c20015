"""URLs as the web tools understand them."""

import pytest

from corral.catalog.web.urls import BadUrl, mentions, web_url


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("https://example.com", "https://example.com/"),
        ("HTTPS://Example.COM:443/A?b=C#frag", "https://example.com/A?b=C"),
        ("http://example.com:8080/x", "http://example.com:8080/x"),
        ("https://example.com./a b".replace(" ", "%20"), "https://example.com/a%20b"),
        ("https://bücher.example/straße", "https://xn--bcher-kva.example/stra%C3%9Fe"),
        ("https://example.com。/", "https://example.com/"),
        ("https://docs．example｡com．/", "https://docs.example.com/"),
        ("https://[::1]:8443/", "https://[::1]:8443/"),
        (" https://example.com/ ", "https://example.com/"),
    ],
)
def test_equal_urls_have_one_form(given: str, text: str) -> None:
    assert web_url(given).text == text
    assert web_url(text).text == text


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ("ftp://example.com/", "invalid_tool_input"),
        ("file:///etc/passwd", "invalid_tool_input"),
        ("javascript:alert(1)", "invalid_tool_input"),
        ("example.com", "invalid_tool_input"),
        ("https://", "invalid_tool_input"),
        ("https://user@example.com/", "invalid_tool_input"),
        ("https://user:pw@example.com/", "invalid_tool_input"),
        ("https://example.com@127.0.0.1/", "invalid_tool_input"),
        ("https://exa mple.com/", "invalid_tool_input"),
        ("https://example.com/\r\nHost: evil", "invalid_tool_input"),
        ("https://example.com\\@evil.org/", "invalid_tool_input"),
        ("https://example.com:99999/", "invalid_tool_input"),
        ("https://ex..com/", "invalid_tool_input"),
        ("https://example.com../", "invalid_tool_input"),
        ("https://.example.com/", "invalid_tool_input"),
        ("https://ex。。com/", "invalid_tool_input"),
        ("https://example.com。./", "invalid_tool_input"),
        ("https://example.com/\ud800", "invalid_tool_input"),
        ("https://a%00b.com/", "invalid_tool_input"),
        ("https://[::1/", "invalid_tool_input"),
        ("https://example.com/" + "a" * 2048, "url_too_long"),
    ],
)
def test_what_cannot_be_fetched(given: str, code: str) -> None:
    with pytest.raises(BadUrl) as refused:
        web_url(given)
    assert refused.value.code == code


@pytest.mark.parametrize(
    "text",
    [
        "see https://example.com/a_(b) please",
        "see https://example.com/a_(b).",
        "(https://example.com/a_(b))",
        "[a](https://example.com/a_(b))",
        "<https://EXAMPLE.com/a_(b)>",
        '"https://example.com:443/a_(b)#part"',
        "https://example.com/a_(b)!?",
        "https://example.com/other https://EXAMPLE.COM/a_(b)",
        "see https://ｅｘａｍｐｌｅ.com/a_(b) please",
        "请看https://example.com/a_(b)。谢谢",
    ],
)
def test_a_url_is_found_in_a_text(text: str) -> None:
    assert mentions(text, web_url("https://example.com/a_(b)"))


def test_a_link_ends_with_its_bracket() -> None:
    assert mentions(
        "[a](https://example.com/b), [c](https://example.com/d)", web_url("https://example.com/b")
    )


@pytest.mark.parametrize(
    "text",
    [
        "https://example.com/",
        "https://example.com/a/b",
        "http://example.com/a",
        "https://example.com.evil.org/a",
        "example.com/a",
        "",
    ],
)
def test_another_url_is_not_this_one(text: str) -> None:
    assert not mentions(text, web_url("https://example.com/a"))
