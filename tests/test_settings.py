from __future__ import annotations

import dataclasses
from typing import Any
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from hypothesis import example, given
from hypothesis import settings as profile
from hypothesis import strategies as st

from person_repo.exceptions import ConfigurationError
from person_repo.settings import KNOWN_SCHEMES, CacheSettings, CacheUrl, Settings, parse_cache_url, redact


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


OPTIONS = {
    "namespace": ("crm", "crm"),
    "ttl": ("60", 60),
    "ttl_jitter": ("0.2", 0.2),
    "refresh_ahead": ("0", 0.0),
    "lease_ttl": ("2", 2),
    "tombstone_ttl": ("30", 30),
    "wait": ("0", 0.0),
    "timeout": ("0.5", 0.5),
    "connect_timeout": ("1", 1.0),
    "breaker_failures": ("5", 5),
    "breaker_reset": ("2", 2.0),
    "on_unreachable": ("strict", "strict"),
    "fence_interval": ("0.5", 0.5),
    "max_loads": ("8", 8),
    "max_load_wait": ("2.5", 2.5),
    "max_keys": ("10", 10),
    "max_items": ("1000", 1000),
    "tls": ("yes", True),
    "tls_ca": ("/ca.pem", "/ca.pem"),
    "tls_cert": ("/cert.pem", "/cert.pem"),
    "tls_key": ("/key.pem", "/key.pem"),
    "tls_hostname": ("cache.example.com", "cache.example.com"),
    "secret": ("new-0123456789abcdef,old-0123456789abcdef", "new-0123456789abcdef,old-0123456789abcdef"),
}


def test_every_setting_is_an_option_of_a_url_and_gets_its_own_type() -> None:
    assert set(OPTIONS) == {field.name for field in dataclasses.fields(CacheSettings)}
    changed = CacheSettings().with_options({name: text for name, (text, _) in OPTIONS.items()})

    assert dataclasses.asdict(changed) == {name: value for name, (_, value) in OPTIONS.items()}
    assert [type(value) for value in dataclasses.asdict(changed).values()] == [type(v) for _, v in OPTIONS.values()]


def test_options_that_are_not_given_keep_their_values() -> None:
    assert CacheSettings(ttl=60).with_options({"wait": "1"}) == CacheSettings(ttl=60, wait=1.0)


def test_an_unknown_option_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError) as caught:
        CacheSettings().with_options({"tll": "60"})
    assert "'tll'" in str(caught.value)
    assert all(name in str(caught.value) for name in OPTIONS)


@pytest.mark.parametrize("text", ["1", "true", "TRUE", " yes ", "on"])
def test_these_words_are_true(text: str) -> None:
    assert CacheSettings().with_options({"tls": text}).tls is True


@pytest.mark.parametrize("text", ["0", "false", "No", "off", ""])
def test_these_words_are_false(text: str) -> None:
    assert CacheSettings(tls=True).with_options({"tls": text}).tls is False


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("namespace", "", "give 1 to 40 of the characters"),
        ("namespace", "a" * 41, "give 1 to 40 of the characters"),
        ("namespace", "a:b", "give 1 to 40 of the characters"),
        ("namespace", "a b", "give 1 to 40 of the characters"),
        ("namespace", "crm\n", "give 1 to 40 of the characters"),
        ("namespace", 7, "is int; give a string"),
        ("ttl", 0, "between 1 and 2592000"),
        ("ttl", 30 * 24 * 3600 + 1, "between 1 and 2592000"),
        ("ttl", "soon", "give a whole number"),
        ("ttl", "1.5", "give a whole number"),
        ("ttl", "", "give a whole number"),
        ("ttl", 1.5, "is float; give a whole number"),
        ("ttl", None, "is NoneType; give a whole number"),
        ("ttl", True, "is bool; give a whole number"),
        ("lease_ttl", 0, "between 1 and 2592000"),
        ("tombstone_ttl", -1, "between 1 and 2592000"),
        ("timeout", 0, "above 0, at most 60"),
        ("timeout", 61, "above 0, at most 60"),
        ("timeout", "nan", "above 0, at most 60"),
        ("timeout", "fast", "give a number"),
        ("connect_timeout", float("inf"), "above 0, at most 60"),
        ("breaker_failures", 0, "at least 1"),
        ("breaker_reset", 0, "above 0, at most 60"),
        ("on_unreachable", "ignore", "give proceed, strict, refuse"),
        ("fence_interval", 0, "above 0, at most 60"),
        ("max_loads", -1, "at least 1, or 0 for no bound"),
        ("max_load_wait", 61, "above 0, at most 60"),
        ("ttl_jitter", 0.6, "between 0 and 0.5"),
        ("refresh_ahead", -0.1, "between 0 and 0.5"),
        ("wait", -0.1, "between 0 and 60"),
        ("wait", True, "is bool; give a number"),
        ("max_keys", 0, "at least 1"),
        ("max_items", 0, "at least 1"),
        ("tls", "maybe", "neither true nor false"),
        ("tls", 1, "is int; give True or False"),
        ("tls_ca", None, "is NoneType; give a string"),
        ("tls_ca", "/ca.pem", "tls is off"),
        ("tls_hostname", "cache", "tls is off"),
        ("secret", 7, "is int; give a string"),
        ("secret", None, "is NoneType; give a string"),
        ("secret", "123456789012345", "shorter than 16 bytes; make one with"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name_and_the_remedy(name: str, value: Any, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason) as caught:
        CacheSettings().with_options({name: value})
    assert name in str(caught.value)


def test_settings_built_directly_are_held_to_the_same_rules() -> None:
    wrong: Any = "60"
    with pytest.raises(ConfigurationError, match="ttl='60' is str; give a whole number"):
        CacheSettings(ttl=wrong)


def test_the_environment_is_read_by_name() -> None:
    settings = Settings.from_environ(
        {
            "PERSON_REPO_DATABASE_URL": "sqlite://",
            "PERSON_REPO_CACHE_URL": "null://",
            "PERSON_REPO_USE_DB": "1",
        }
    )
    assert settings == Settings(database_url="sqlite://", cache_url="null://", use_db=True)


@pytest.mark.parametrize("environ", [{}, {"PERSON_REPO_DATABASE_URL": "", "PERSON_REPO_USE_DB": ""}])
def test_what_the_environment_leaves_out_has_its_default(environ: dict[str, str]) -> None:
    assert Settings.from_environ(environ) == Settings()


def test_the_process_environment_is_the_default_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSON_REPO_CACHE_URL", "memcached://cache")
    assert Settings.from_environ().cache_url == "memcached://cache"


def test_a_toggle_that_is_neither_true_nor_false_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match="PERSON_REPO_USE_DB='perhaps'"):
        Settings.from_environ({"PERSON_REPO_USE_DB": "perhaps"})


# The secret

SECRETS = ("QXQXQXQXQXQXQXQX", "ZXZXZXZXZXZXZXZX")


@pytest.mark.parametrize("given", [list(SECRETS), SECRETS, "QXQXQXQXQXQXQXQX,ZXZXZXZXZXZXZXZX"])
def test_several_secrets_are_a_list_or_separated_by_commas(given: Any) -> None:
    assert CacheSettings().with_options({"secret": given}).secret == ",".join(SECRETS)


def test_no_secrets_are_no_sealing() -> None:
    assert CacheSettings(secret=SECRETS[0]).with_options({"secret": []}).secret == ""


@pytest.mark.parametrize(
    "given",
    [
        "QXQXQXQXQXQXQX",
        f"{SECRETS[0]},",
        f",{SECRETS[0]}",
        f"{SECRETS[0]},,{SECRETS[1]}",
        f"{SECRETS[0]},              QX",
        ",",
        " ",
        [""],
        [SECRETS[0], " "],
        [SECRETS[0], None],
        [",".join(SECRETS)],
        [SECRETS[0].encode()],
        SECRETS[0].encode(),
        {SECRETS[0]},
    ],
    ids=repr,
)
def test_a_secret_that_is_refused_is_not_shown(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="secret") as caught:
        CacheSettings().with_options({"secret": given})
    assert not set("QXZ") & set(str(caught.value))


def test_settings_do_not_show_their_secret() -> None:
    assert not set("QXZ") & set(repr(CacheSettings(secret=SECRETS[0])))
    assert CacheSettings(secret=SECRETS[0]) != CacheSettings(secret=SECRETS[1])


@pytest.mark.parametrize("written", [SECRETS[0], ",".join(SECRETS), "%51X%2C?/@:Z", "QX=Z", ""])
def test_a_secret_among_the_options_of_a_url_is_not_shown(written: str) -> None:
    assert redact(f"memcached://cache?secret={written}&ttl=5") == "memcached://cache?secret=***&ttl=5"
    with pytest.raises(ConfigurationError) as caught:
        parse_cache_url(f"memcached://cache?ttl=5&secret={written}&secret={written}")
    assert not set("QXZ") & set(str(caught.value))


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


def test_settings_can_be_logged() -> None:
    settings = Settings(database_url="mysql://app:secret@db/crm", cache_url="redis://:secret@cache")
    assert repr(settings) == (
        "Settings(database_url='mysql://app:***@db/crm', cache_url='redis://:***@cache', use_db=False)"
    )


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
