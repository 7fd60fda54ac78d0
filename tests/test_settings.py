from __future__ import annotations

import ast
import dataclasses
import inspect
from pathlib import Path
from typing import Any

import pytest

from person_repo import settings, urls
from person_repo.exceptions import ConfigurationError
from person_repo.settings import CacheSettings, Settings

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "settings.md"


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


def documented(cls: type) -> dict[str, str]:
    """The docstring of each field of a dataclass, in one line."""
    (definition,) = ast.parse(inspect.getsource(cls)).body
    assert isinstance(definition, ast.ClassDef)
    texts: dict[str, str] = {}
    for field, text in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            texts[ast.unparse(field.target)] = " ".join(text.value.value.split())
    return texts


def test_every_field_has_a_docstring() -> None:
    for cls in (CacheSettings, Settings):
        assert list(documented(cls)) == [field.name for field in dataclasses.fields(cls)]


def test_the_page_of_the_options_says_what_their_docstrings_say() -> None:
    meanings = {name: text.replace("``", "`") for name, text in documented(CacheSettings).items()}
    section = PAGE.read_text(encoding="utf-8").partition("\n## Cache options\n")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `")]

    assert [(name.strip(" `"), meaning.strip()) for name, *_, meaning in rows] == list(meanings.items())


def test_names_that_concern_urls_can_be_imported_from_settings_too() -> None:
    for name in ("KNOWN_SCHEMES", "CacheUrl", "parse_cache_url", "redact"):
        assert getattr(settings, name) is getattr(urls, name)
        assert name in settings.__all__


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
def test_variables_that_are_missing_or_empty_have_their_defaults(environ: dict[str, str]) -> None:
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


def test_settings_can_be_logged() -> None:
    settings = Settings(database_url="mysql://app:secret@db/crm", cache_url="redis://:secret@cache")
    assert repr(settings) == (
        "Settings(database_url='mysql://app:***@db/crm', cache_url='redis://:***@cache', use_db=False)"
    )
