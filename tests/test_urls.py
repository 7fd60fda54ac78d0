from __future__ import annotations

from urllib.parse import quote

import pytest
import sqlalchemy as sa
from hypothesis import example, given
from hypothesis import settings as profile
from hypothesis import strategies as st

from person_repo.exceptions import ConfigurationError
from person_repo.urls import KNOWN_SCHEMES, CacheUrl, hide_passwords, parse_cache_url, redact


def hosts(*servers: str, **options: str) -> CacheUrl:
    return CacheUrl("memcached", servers, options)


GOOD_URLS = {
    "memory://": CacheUrl("memory", (), {}),
    "memory:///": CacheUrl("memory", (), {}),
    "memory://?max_items=10": CacheUrl("memory", (), {"max_items": "10"}),
    "null://": CacheUrl("null", (), {}),
    "memcached://localhost": hosts("localhost:11211"),
    "memcached://localhost/": hosts("localhost:11211"),
    "memcached://localhost:11212": hosts("localhost:11212"),
    "memcached://10.0.0.1:11211,10.0.0.2": hosts("10.0.0.1:11211", "10.0.0.2:11211"),
    "memcached://Cache-1.example.com": hosts("cache-1.example.com:11211"),
    "memcached://[::1]": hosts("[::1]:11211"),
    "memcached://[::1]:11212,[2001:db8::2]": hosts("[::1]:11212", "[2001:db8::2]:11211"),
    "memcached:///run/memcached.sock": hosts("/run/memcached.sock"),
    "memcached:///run/a%20b%3F.sock?ttl=5": hosts("/run/a b?.sock", ttl="5"),
    "memcached://h?timeout=0.5&tls=1&tls_ca=%2Fca.pem": hosts("h:11211", timeout="0.5", tls="1", tls_ca="/ca.pem"),
    "memcached://h?ttl=": hosts("h:11211", ttl=""),
}

BAD_URLS = {
    "": "known are: memcached://, memory://, null://",
    "memory": "known are: memcached://, memory://, null://",
    "memory:": "known are: memcached://, memory://, null://",
    "redis2://localhost": "known are: memcached://, memory://, null://",
    "memory://localhost": "memory:// takes no server",
    "null://localhost": "null:// takes no server",
    "memcached://": "'' is no server",
    "memcached:///": "no path of a socket",
    "memcached:///run/": "no path of a socket",
    "memcached:///run/a%00b": "no path of a socket",
    "memcached://a,,b": "'' is no server",
    "memcached://a:0": "'a:0' is no server",
    "memcached://a:70000": "'a:70000' is no server",
    "memcached://a:x": "'a:x' is no server",
    "memcached://a:-1": "'a:-1' is no server",
    "memcached://a:": "'a:' is no server",
    "memcached://:11211": "':11211' is no server",
    "memcached://::1": "'::1' is no server",
    "memcached://[::1": "'[::1' is no server",
    "memcached://a/b": "'a/b' is no server",
    "memcached://a#b": "'a#b' is no server",
    "memcached://a b": "'a b' is no server",
    "memcached://a, b": "' b' is no server",
    "memcached://a\n": r"'a\\n' is no server",
    "memcached://user@a": "without a user",
    "memcached://user:secret@a": "without a user",
    "memcached://:secret@a": "without a user",
    "memcached://user:sec,ret@a": "without a user",
    "memcached://a,a:11211": "names a server twice",
    "memcached://user:?ttl=5&secret@a": "only option=value",
    "memcached://user:?ttl=secret@a": "without a user",
    "memcached://user:1?secret@a": "only option=value",
    "memcached://a?ttl=1&ttl=2": "gives an option twice",
}


@pytest.mark.parametrize("url", GOOD_URLS)
def test_a_cache_url_is_taken_apart(url: str) -> None:
    assert parse_cache_url(url) == GOOD_URLS[url]


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_wrong_cache_url_is_refused_with_the_reason(url: str) -> None:
    with pytest.raises(ConfigurationError, match=BAD_URLS[url].replace("[", r"\[")) as caught:
        parse_cache_url(url)
    assert "secret" not in str(caught.value)
    assert "ret" not in str(caught.value)


def test_a_url_that_is_refused_for_its_scheme_lists_every_known_one() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_cache_url("dynamo://localhost")
    assert all(f"{scheme}://" in str(caught.value) for scheme in KNOWN_SCHEMES)


# Without passwords

REDACTED = {
    "mysql+pymysql://app:secret@db:3306/crm": "mysql+pymysql://app:***@db:3306/crm",
    "mysql+pymysql://app:se@cr:et/x@db/crm": "mysql+pymysql://app:***@db/crm",
    "mysql://app@server:secret@db/crm": "mysql://app@server:***@db/crm",
    "redis://:secret@cache:6379/0": "redis://:***@cache:6379/0",
    "memcached://10.0.0.1:11211,10.0.0.2:11211?ttl=5": "memcached://10.0.0.1:11211,10.0.0.2:11211?ttl=5",
    "memcached://[::1]:11211": "memcached://[::1]:11211",
    "sqlite:///people.db": "sqlite:///people.db",
    "sqlite://": "sqlite://",
    "mysql://db/crm?user=app&password=secret&ssl=1": "mysql://db/crm?user=app&password=***&ssl=1",
    "mysql://db:3306/crm?passwd=sec@ret": "mysql://db:***",
    "app:secret@db": "app:***@db",
    "app:secret://x@db": "app:***@db",
    "": "",
}


@pytest.mark.parametrize("url", REDACTED)
def test_a_url_is_shown_without_its_password(url: str) -> None:
    assert redact(url) == REDACTED[url]


def test_a_url_object_of_sqlalchemy_is_shown_without_its_password() -> None:
    url = sa.make_url("mysql+pymysql://app:secret@db/crm?password=secret")
    assert redact(url) == "mysql+pymysql://app:***@db/crm?password=***"


@pytest.mark.parametrize("written", ["QXQXQXQXQXQXQXQX", "QXQX,ZXZX", "%51X%2C?/@:Z", "QX=Z", ""])
def test_a_secret_among_the_options_of_a_url_is_not_shown(written: str) -> None:
    assert redact(f"memcached://cache?secret={written}&ttl=5") == "memcached://cache?secret=***&ttl=5"
    with pytest.raises(ConfigurationError) as caught:
        parse_cache_url(f"memcached://cache?ttl=5&secret={written}&secret={written}")
    assert not set("QXZ") & set(str(caught.value))


# Letters that no other part of the URLs below has, so that any piece of a password that shows is found.
passwords = st.text(alphabet="QXZ@:/?#&=%;,[]\n ", min_size=1, max_size=12)


@given(password=passwords, encoded=st.booleans())
@example(password="Q?password=Z", encoded=False)
@example(password="://Q", encoded=False)
@profile(max_examples=300, deadline=None)
def test_no_piece_of_a_password_is_shown(password: str, encoded: bool) -> None:
    written = quote(password, safe="") if encoded else password
    for url in (
        f"mysql+pymysql://app:{written}@db:3306/crm?charset=utf8mb4",
        f"redis://:{written}@[::1]:6379/0",
        f"memcached://app:{written}@cache,other:11211?ttl=5",
        f"app:x{written}@db",  # "app://" would be a scheme
    ):
        shown = redact(url)
        assert not set("QXZ") & set(shown)
        assert quote(password, safe="") not in shown
        with pytest.raises(ConfigurationError) as caught:
            parse_cache_url(url)
        assert not set("QXZ") & set(str(caught.value))


@given(password=st.text(alphabet="QXZ@:/?#=%", min_size=1, max_size=12), port=st.sampled_from(["", ":3306"]))
@profile(max_examples=100, deadline=None)
def test_no_piece_of_a_password_among_the_options_is_shown(password: str, port: str) -> None:
    assert not set("QXZ") & set(redact(f"mysql://db{port}/crm?password={password}"))


# Texts of others without passwords


@pytest.mark.parametrize(
    ("password", "text", "shown"),
    [
        ("QXZ", "no login with 'QXZ'", "no login with '***'"),
        ("QXZ", "no login with QXZ, QXZ!", "no login with ***, ***!"),
        ("%40QXZ", "no login with @QXZ or %40QXZ", "no login with *** or ***"),
        ("QX@Z", "no login to Z", "no login to Z"),
        ("p", "mysql+pymysql cannot open a port", "mysql+pymysql cannot open a port"),
        ("app", "Access denied for user 'app'", "Access denied for user 'app'"),
        ("mysql", "mysql has gone away", "mysql has gone away"),
        ("", "no password", "no password"),
        ("(.*)***", "no login with (.*)***", "no login with ***"),
    ],
)
def test_a_text_that_may_quote_a_password_is_shown_without_it(password: str, text: str, shown: str) -> None:
    """Stars inside a word, or in the place of a word that the URL shows, would give the password away."""
    url = f"mysql+pymysql://app:{password}@db/crm"

    assert hide_passwords(f"{text}: {url}", url) == f"{shown}: mysql+pymysql://app:***@db/crm"


def test_a_text_is_shown_without_the_passwords_of_all_urls_and_without_a_part_of_one() -> None:
    text = "QX failed, so did QXZ, but not QXZ1"

    assert (
        hide_passwords(text, "redis://:QX@cache", "mysql://db/crm?password=QXZ")
        == "*** failed, so did ***, but not QXZ1"
    )
