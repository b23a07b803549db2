"""Where an address is: databases written here, one of each make, whole and damaged."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmdb_writer import MMDBWriter
from netaddr import IPSet
from structlog.testing import capture_logs

from orchestrator.domain.model import NOWHERE, Location
from orchestrator.errors import OperatorError, SettingsError
from orchestrator.settings import Settings
from orchestrator.transport.geo import PROBED_NETWORKS, Geo, distance_km

BERLIN = (52.5, 13.5)

# What MaxMind's City and Country databases and DB-IP's say of an address, in their own shapes.
MAXMIND_CITY = {
    "city": {"geoname_id": 2950159, "names": {"en": "Berlin"}},
    "continent": {"code": "EU", "geoname_id": 6255148, "names": {"en": "Europe"}},
    "country": {"geoname_id": 2921044, "iso_code": "DE", "names": {"en": "Germany"}},
    "location": {
        "accuracy_radius": 20,
        "latitude": 52.4908,
        "longitude": 13.3318,
        "time_zone": "Europe/Berlin",
    },
    "registered_country": {"iso_code": "FR"},
    "subdivisions": [{"iso_code": "BE", "names": {"en": "Land Berlin"}}],
}
MAXMIND_COUNTRY = {
    "continent": {"code": "EU", "geoname_id": 6255148, "names": {"en": "Europe"}},
    "country": {"geoname_id": 2921044, "iso_code": "DE", "names": {"en": "Germany"}},
}
DB_IP_CITY = {
    "city": {"names": {"en": "Sydney"}},
    "continent": {"code": "OC", "names": {"en": "Oceania"}},
    "country": {"iso_code": "AU", "is_in_european_union": False, "names": {"en": "Australia"}},
    "location": {"latitude": -33.8688, "longitude": 151.209},
    "subdivisions": [{"names": {"en": "New South Wales"}}],
}

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return what writes a database of networks and their records, and says where it is."""

    def written(
        records: Mapping[str, Any], *, ip_version: int = 6, kind: str = "GeoLite2-City"
    ) -> Path:
        writer = MMDBWriter(
            ip_version, kind, languages=["en"], description="test", ipv4_compatible=ip_version == 6
        )
        for network, record in records.items():
            writer.insert_network(IPSet([network]), record)
        path = tmp_path / f"{kind}.mmdb"
        writer.to_db_file(str(path))
        return path

    return written


def test_an_address_is_located_by_country_and_distance(write: Write) -> None:
    path = write({"81.2.69.0/24": MAXMIND_CITY, "2a02:6b8::/32": DB_IP_CITY})
    geo = Geo(path, here=BERLIN)

    assert geo.locate("81.2.69.160") == Location("EU-DE", 0.0)
    far = geo.locate("2a02:6b8::1")
    assert far.region == "OC-AU"
    assert far.distance_km == pytest.approx(16_078.8, abs=0.1)


def test_a_mapped_address_is_that_of_version_four(write: Write) -> None:
    geo = Geo(write({"81.2.69.0/24": MAXMIND_CITY}))

    assert geo.locate("::ffff:81.2.69.160").region == "EU-DE"


@pytest.mark.parametrize(
    "address",
    [
        "81.2.70.1",
        "2a02:6b9::1",
        "10.0.0.1",
        "127.0.0.1",
        "::1",
        "::ffff:192.168.0.1",
        "fe80::1%eth0",
        "100.64.0.1",
        "local",
        "",
        "81.2.69.160:443",
        "81.2.69.999",
        "\x00",
    ],
)
def test_what_is_unknown_private_or_no_address_is_nowhere(write: Write, address: str) -> None:
    everywhere = {"10.0.0.0/8": MAXMIND_CITY, "127.0.0.0/8": MAXMIND_CITY, "::1/128": MAXMIND_CITY}
    geo = Geo(write({"81.2.69.0/24": MAXMIND_CITY, **everywhere}), here=BERLIN)

    assert geo.locate(address) == NOWHERE


def test_a_country_database_gives_the_region_alone(write: Write) -> None:
    geo = Geo(write({"81.2.69.0/24": MAXMIND_COUNTRY}, kind="GeoLite2-Country"), here=BERLIN)

    assert geo.locate("81.2.69.160") == Location("EU-DE", None)


def test_without_a_place_of_its_own_the_server_knows_no_distance(write: Write) -> None:
    geo = Geo(write({"81.2.69.0/24": MAXMIND_CITY}))

    assert geo.locate("81.2.69.160") == Location("EU-DE", None)


def test_without_a_database_everybody_is_nowhere() -> None:
    assert Geo(None, here=BERLIN).locate("81.2.69.160") == NOWHERE


@pytest.mark.parametrize(
    ("record", "region", "has_distance"),
    [
        ({"continent": {"code": "EU"}}, "EU", False),
        ({"continent": {"code": "EU"}, "country": {"iso_code": "ZZ"}}, "EU", False),
        ({"continent": {"code": "ZZ"}, "country": {"iso_code": "ZZ"}}, "", False),
        ({"continent": {"code": "EU"}, "country": {"iso_code": "EU-DE"}}, "EU", False),
        ({"continent": {"code": "EU"}, "country": {"iso_code": 49}}, "EU", False),
        ({"continent": "EU", "country": "DE"}, "", False),
        ({"country": {"iso_code": "DE"}}, "", False),
        ({"location": {"latitude": 52.5, "longitude": 13.4}}, "", True),
        ({"location": {"latitude": 52, "longitude": 13}}, "", True),
        ({"location": {"latitude": 90.0, "longitude": 180.0}}, "", True),
        ({"location": {"latitude": 0.0, "longitude": 0.0}}, "", False),
        ({"location": {"latitude": 52.5}}, "", False),
        ({"location": {"latitude": 91.0, "longitude": 13.4}}, "", False),
        ({"location": {"latitude": math.nan, "longitude": 13.4}}, "", False),
        ({"location": {"latitude": "52.5", "longitude": "13.4"}}, "", False),
        ({"location": {"latitude": True, "longitude": True}}, "", False),
        ({"location": [52.5, 13.4]}, "", False),
        ({}, "", False),
        ("Berlin", "", False),
    ],
)
def test_a_record_gives_as_much_as_it_holds(
    write: Write, record: Any, region: str, has_distance: bool
) -> None:
    geo = Geo(write({"81.2.69.0/24": record, "81.2.70.0/24": MAXMIND_CITY}), here=BERLIN)

    found = geo.locate("81.2.69.160")

    assert found.region == region
    assert (found.distance_km is not None) == has_distance


# ── the cell ─────────────────────────────────────────────────────────────────────────────────────


@given(
    latitude=st.integers(-90, 89),
    longitude=st.integers(-180, 179),
    places=st.lists(st.tuples(st.floats(0, 0.99), st.floats(0, 0.99)), min_size=2, max_size=2),
)
def test_two_places_of_one_cell_cannot_be_told_apart(
    tmp_path_factory: pytest.TempPathFactory,
    latitude: int,
    longitude: int,
    places: list[tuple[float, float]],
) -> None:
    writer = MMDBWriter(4, "GeoLite2-City", languages=["en"], description="test", float_type="f64")
    for number, (north, east) in enumerate(places):
        # Just off the one point that means "unknown".
        location = {"latitude": latitude + north + 1e-9, "longitude": longitude + east + 1e-9}
        writer.insert_network(IPSet([f"81.2.{number}.0/24"]), {"location": location})
    path = tmp_path_factory.mktemp("cell") / "city.mmdb"
    writer.to_db_file(str(path))

    first, second = (Geo(path, here=BERLIN).locate(f"81.2.{n}.1") for n in (0, 1))

    assert first == second
    assert first.distance_km == distance_km(BERLIN, (latitude + 0.5, longitude + 0.5))


@pytest.mark.parametrize(
    ("here", "there", "expected"),
    [
        (BERLIN, BERLIN, 0.0),
        ((0.0, 0.0), (1.0, 0.0), 111.195),
        ((0.0, 179.5), (0.0, -179.5), 111.195),
        ((90.0, 0.0), (0.0, 77.0), 10_007.557),
        ((52.5, 13.5), (-52.5, -166.5), 20_015.115),
        # Here rounding carries the squared sine past 1; its root is 1 again.
        ((-87.5, 0.0), (87.5, -180.0), 20_015.115),
    ],
)
def test_distances_are_great_circles(
    here: tuple[float, float], there: tuple[float, float], expected: float
) -> None:
    assert distance_km(here, there) == pytest.approx(expected, abs=0.001)
    assert distance_km(there, here) == pytest.approx(expected, abs=0.001)


# ── files that are not what they should be ───────────────────────────────────────────────────────


def refusal(path: Path) -> str:
    with pytest.raises(OperatorError) as error:
        Geo(path)
    return str(error.value)


def test_a_database_that_cannot_be_used_is_told_in_a_sentence(write: Write, tmp_path: Path) -> None:
    noise = tmp_path / "noise.mmdb"
    noise.write_bytes(b"\xff" * 4096)
    whole = write({"81.2.69.0/24": MAXMIND_CITY}).read_bytes()
    half = tmp_path / "half.mmdb"
    half.write_bytes(whole[len(whole) // 2 :])
    providers = write({"81.2.69.0/24": {"autonomous_system_number": 64500}}, kind="GeoLite2-ASN")

    assert "missing.mmdb cannot be read: No such file" in refusal(tmp_path / "missing.mmdb")
    assert "cannot be read: Is a directory" in refusal(tmp_path)
    assert "noise.mmdb is damaged or no MaxMind database" in refusal(noise)
    assert "half.mmdb is damaged or no MaxMind database" in refusal(half)
    assert "(GeoLite2-ASN) holds no places: it must be a City or" in refusal(providers)
    assert "ZEROGPU_GEOIP_DATABASE" in refusal(noise)


def test_noise_anywhere_in_the_file_stops_the_start_or_nothing(
    write: Write, tmp_path: Path
) -> None:
    whole = write({"81.2.69.0/24": MAXMIND_CITY, "2a02:6b8::/32": DB_IP_CITY}).read_bytes()
    rng, path = random.Random(5), tmp_path / "damaged.mmdb"
    refused = 0
    for _ in range(400):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 6)):
            damaged[rng.randrange(len(whole))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            geo = Geo(path, here=BERLIN)
        except OperatorError:
            refused += 1
        else:
            with capture_logs():
                geo.locate("81.2.69.160")
                geo.locate("2a02:6b8::1")
    assert 50 < refused < 400


def test_damage_that_the_start_did_not_see_costs_the_damaged_places_alone(write: Write) -> None:
    # More networks than are looked at when it is opened, and the records of the last ones void.
    networks = {
        f"81.{n >> 8}.{n & 255}.0/24": {**MAXMIND_COUNTRY, "location": {"latitude": n / 20}}
        for n in range(PROBED_NETWORKS + 200)
    }
    path = write(networks)
    damaged = bytearray(path.read_bytes())
    end = damaged.rindex(b"\xab\xcd\xefMaxMind.com")
    damaged[end - 1000 : end] = b"\xff" * 1000
    path.write_bytes(damaged)
    geo = Geo(path)

    with capture_logs() as logged:
        assert geo.locate("81.4.175.1") == NOWHERE

    assert logged
    assert geo.locate("81.0.5.1").region == "EU-DE"


def test_an_error_is_logged_once_and_without_the_address(write: Write) -> None:
    # The reader's error for an address of the other version has the address in its text.
    geo = Geo(write({"81.2.69.0/24": MAXMIND_CITY}, ip_version=4), here=BERLIN)

    with capture_logs() as logged:
        assert geo.locate("2a02:6b8::1") == NOWHERE
        assert geo.locate("2a02:6b8::2") == NOWHERE

    [line] = logged
    assert "2a02" not in str(line)
    assert geo.locate("81.2.69.160").region == "EU-DE"


def test_a_file_cut_short_under_a_running_server_changes_nothing(write: Write) -> None:
    path = write({"81.2.69.0/24": MAXMIND_CITY})
    geo = Geo(path)

    with path.open("r+b") as file:
        file.truncate(100)

    assert geo.locate("81.2.69.160").region == "EU-DE"


def test_a_closed_database_locates_nobody(write: Write) -> None:
    geo = Geo(write({"81.2.69.0/24": MAXMIND_CITY}))

    geo.close()
    geo.close()

    assert geo.locate("81.2.69.160") == NOWHERE


# ── settings ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("text", ["52.5,13.4", " 52.5 , 13.4 ", "52.5,+13.4"])
def test_the_servers_place_is_read_as_latitude_and_longitude(text: str) -> None:
    assert Settings.from_env({"ZEROGPU_LOCATION": text}).here == (52.5, 13.4)


def test_a_server_need_not_say_where_it_is() -> None:
    assert Settings.from_env({"ZEROGPU_LOCATION": ""}).here is None


@pytest.mark.parametrize("text", ["Berlin", "52.5", "52.5,", "91,0", "0,181", "nan,0", "1,2,3"])
def test_a_place_that_is_none_is_named_with_what_is_allowed(text: str) -> None:
    with pytest.raises(SettingsError) as error:
        Settings.from_env({"ZEROGPU_LOCATION": text})

    assert str(error.value).startswith("location (ZEROGPU_LOCATION) must be a latitude of -90")
    assert str(error.value).endswith(f"not {text!r}")
