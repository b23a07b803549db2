"""Roughly where an address is, from an operator's MaxMind-format database; without one, nowhere.

Only the 1° cell an address falls into is used, never the address: the region is a continent or a
country in one, the distance is that of the cell's centre. The file is read into memory once, so
that replacing it under a running server can neither crash it (as a truncated memory map does) nor
mix two versions; a new one is read at the next start.
"""

from __future__ import annotations

import ipaddress
import itertools
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import maxminddb
import structlog

from orchestrator.domain.model import NOWHERE, Location
from orchestrator.errors import OperatorError

EARTH_RADIUS_KM: Final = 6371.0088
CONTINENTS: Final = frozenset({"AF", "AN", "AS", "EU", "NA", "OC", "SA"})
COUNTRY: Final = re.compile("[A-Z]{2}")
# A database of places names one within its first few networks; one of providers never does.
PROBED_NETWORKS: Final = 1000

log = structlog.get_logger("nodes")


class Geo:
    """Locates addresses. Without ``path`` every address is nowhere.

    ``here`` is the latitude and longitude of this server; without it there are no distances.
    Raises `OperatorError` for a file that cannot be read or holds no places.
    """

    def __init__(self, path: Path | None, *, here: tuple[float, float] | None = None) -> None:
        self._here = here
        self._failed = False
        self._reader = None if path is None else _open(path)

    def locate(self, address: str) -> Location:
        """Return where ``address`` is, `NOWHERE` if that is not known; never raises."""
        if self._reader is None:
            return NOWHERE
        try:
            ip = _public(address)
            return NOWHERE if ip is None else _location(self._reader.get(ip), self._here)
        except Exception as error:
            # Damage shows as nearly any error, and no node is refused because of it. The error's
            # text may hold the address, so it is not logged; once is enough for the operator.
            if not self._failed:
                self._failed = True
                log.warning("the GeoIP database is damaged", error=type(error).__name__)
            return NOWHERE

    def close(self) -> None:
        """Forget the database: every address is nowhere from here on."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None


def distance_km(here: tuple[float, float], there: tuple[float, float]) -> float:
    """Return the great-circle distance of two (latitude, longitude), by the haversine formula."""
    (lat_1, lon_1), (lat_2, lon_2) = ((math.radians(a), math.radians(b)) for a, b in (here, there))
    h = (
        math.sin((lat_2 - lat_1) / 2) ** 2
        + math.cos(lat_1) * math.cos(lat_2) * math.sin((lon_2 - lon_1) / 2) ** 2
    )
    return 2 * EARTH_RADIUS_KM * math.asin(math.sqrt(h))


def _open(path: Path) -> maxminddb.Reader:
    setting = "geoip_database (ZEROGPU_GEOIP_DATABASE)"
    try:
        reader = maxminddb.open_database(path, maxminddb.MODE_MEMORY)
        records = [record for _, record in itertools.islice(reader, PROBED_NETWORKS)]
        if any(_location(record, None) != NOWHERE or _cell(record) for record in records):
            return reader
        kind = reader.metadata().database_type
    except OSError as error:
        raise OperatorError(f"{setting}: {path} cannot be read: {error.strerror}") from error
    except Exception as error:
        # The reader raises nearly anything for bytes that are not what they should be.
        raise OperatorError(f"{setting}: {path} is damaged or no MaxMind database") from error
    raise OperatorError(
        f"{setting}: {path} ({kind}) holds no places: it must be a City or Country database"
    )


def _public(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address as it is looked up; None for one that is nowhere on the internet."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return None  # a Unix socket has no address
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return ip if ip.is_global else None


def _location(record: object, here: tuple[float, float] | None) -> Location:
    cell = _cell(record)
    return Location(
        region=_region(record),
        distance_km=None if here is None or cell is None else distance_km(here, cell),
    )


def _region(record: object) -> str:
    continent = _field(record, "continent", "code")
    if continent not in CONTINENTS:
        return ""
    country = str(_field(record, "country", "iso_code"))
    # ISO 3166 leaves ZZ for "unknown", and some databases write it.
    known = COUNTRY.fullmatch(country) and country != "ZZ"
    return f"{continent}-{country}" if known else str(continent)


def _cell(record: object) -> tuple[float, float] | None:
    """Return the centre of the 1° cell that the record's coordinates fall into."""
    latitude = _degrees(_field(record, "location", "latitude"), limit=90)
    longitude = _degrees(_field(record, "location", "longitude"), limit=180)
    if latitude is None or longitude is None or latitude == longitude == 0:
        return None  # 0, 0 is open sea: some databases write it for "unknown"
    return min(math.floor(latitude), 89) + 0.5, min(math.floor(longitude), 179) + 0.5


def _degrees(value: object, *, limit: float) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # Written so that NaN fails too.
    return value if -limit <= value <= limit else None


def _field(record: object, group: str, name: str) -> object:
    inner = record.get(group) if isinstance(record, Mapping) else None
    return inner.get(name) if isinstance(inner, Mapping) else None
