"""Settings: what the environment may say, and what is said of a mistake in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import SettingsError
from orchestrator.settings import Settings, describe


def test_an_empty_environment_gives_the_defaults() -> None:
    settings = Settings.from_env({})

    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.data_dir == Path("var")
    assert settings.forwarded_allow_ips == ()
    assert settings.cpu_worker is True
    assert settings.url == "http://127.0.0.1:8000"


def test_every_kind_of_value_is_read() -> None:
    settings = Settings.from_env(
        {
            "ZEROGPU_PORT": "9000",
            "ZEROGPU_CPU_WORKER": "no",
            "ZEROGPU_DRAIN_S": "2.5",
            "ZEROGPU_DATA_DIR": "/tmp/data",
            "ZEROGPU_ALLOWED_HOSTS": "a.example, b.example",
            "ZEROGPU_PUBLIC_URL": "https://a.example/",
            "ZEROGPU_LOG_FORMAT": "JSON",
            "ZEROGPU_METRICS_TOKEN": "",
            "HOME": "/root",
        }
    )

    assert settings.port == 9000
    assert settings.cpu_worker is False
    assert settings.drain_s == 2.5
    assert settings.data_dir == Path("/tmp/data")
    assert settings.allowed_hosts == ("a.example", "b.example")
    assert settings.url == "https://a.example"
    assert settings.log_format == "json"
    assert settings.metrics_token is None


def test_an_override_wins_unless_it_is_none() -> None:
    environ = {"ZEROGPU_PORT": "9000", "ZEROGPU_HOST": "::1"}

    settings = Settings.from_env(environ, port=1234, host=None)

    assert settings.url == "http://[::1]:1234"


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"ZEROGPU_PORT": "abc"}, "ZEROGPU_PORT must be a whole number, not 'abc'"),
        ({"ZEROGPU_PORT": "70000"}, "port (ZEROGPU_PORT) must be between 0 and 65535, not 70000"),
        ({"ZEROGPU_DRAIN_S": "nan"}, "drain_s (ZEROGPU_DRAIN_S) must be between 0 and 3600"),
        ({"ZEROGPU_CPU_WORKER": "maybe"}, "ZEROGPU_CPU_WORKER must be true or false, not 'maybe'"),
        ({"ZEROGPU_LOG_LEVEL": "loud"}, "ZEROGPU_LOG_LEVEL must be one of debug, info, warning"),
        ({"ZEROGPU_TLS_KEY": "key.pem"}, "tls_cert and tls_key belong together"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(environ: dict[str, str], sentence: str) -> None:
    with pytest.raises(SettingsError) as error:
        Settings.from_env(environ)

    assert str(error.value).startswith(sentence)


def test_an_override_that_is_no_setting_is_refused() -> None:
    with pytest.raises(SettingsError, match="no setting called prot"):
        Settings.from_env({}, prot=1)


def test_every_setting_is_described() -> None:
    by_name = {one.name: one for one in describe()}

    assert by_name["drain_s"].variable == "ZEROGPU_DRAIN_S"
    assert by_name["drain_s"].unit == "s"
    assert by_name["build_dir"].default == "build"
    assert by_name["metrics_token"].default == ""
    assert all(one.text for one in by_name.values())


def test_the_metrics_token_is_not_shown() -> None:
    assert "hush" not in repr(Settings.from_env({"ZEROGPU_METRICS_TOKEN": "hush"}))


def test_a_route_that_no_batch_can_run_is_refused_at_start() -> None:
    both = Settings.from_env({"ZEROGPU_BATCH_ENDPOINTS": "/v1/responses,/v1/embeddings"})
    assert both.batch_endpoints == ("/v1/responses", "/v1/embeddings")

    with pytest.raises(SettingsError, match="names '/v1/moderations'"):
        Settings.from_env({"ZEROGPU_BATCH_ENDPOINTS": "/v1/moderations"})
