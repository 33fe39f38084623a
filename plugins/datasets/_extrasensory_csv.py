"""Reader of one user's ExtraSensory file: every deviation from the format is named."""

from __future__ import annotations

import gzip
import math
import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cibench import DataError


def _names(prefix: str, text: str) -> tuple[str, ...]:
    return tuple(f"{prefix}:{name}" for name in text.split())


def _motion(prefix: str) -> tuple[str, ...]:
    """The 26 columns every motion sensor has."""
    return (
        *_names(
            f"{prefix}:magnitude_stats",
            "mean std moment3 moment4 percentile25 percentile50 percentile75"
            " value_entropy time_entropy",
        ),
        *(f"{prefix}:magnitude_spectrum:log_energy_band{i}" for i in range(5)),
        f"{prefix}:magnitude_spectrum:spectral_entropy",
        *_names(f"{prefix}:magnitude_autocorrelation", "period normalized_ac"),
        *_names(
            f"{prefix}:3d",
            "mean_x mean_y mean_z std_x std_y std_z ro_xy ro_xz ro_yz",
        ),
    )


def _lags(prefix: str) -> tuple[str, ...]:
    return tuple(f"{prefix}:avr_cosine_similarity_lag_range{i}" for i in range(5))


#: The ten agents in the paper's order, with their columns in file order.
AGENTS: dict[str, tuple[str, ...]] = {
    "phone-accelerometer": _motion("raw_acc"),
    "gyroscope": _motion("proc_gyro"),
    "magnetometer": _motion("raw_magnet") + _lags("raw_magnet"),
    "watch-accelerometer": (
        *_motion("watch_acceleration"),
        *(
            f"watch_acceleration:spectrum:{axis}_log_energy_band{i}"
            for axis in "xyz"
            for i in range(5)
        ),
        *_lags("watch_acceleration:relative_directions"),
    ),
    "compass": _names(
        "watch_heading",
        "mean_cos std_cos mom3_cos mom4_cos mean_sin std_sin mom3_sin mom4_sin"
        " entropy_8bins",
    ),
    "location": (
        *_names(
            "location",
            "num_valid_updates log_latitude_range log_longitude_range min_altitude"
            " max_altitude min_speed max_speed best_horizontal_accuracy"
            " best_vertical_accuracy diameter log_diameter",
        ),
        *_names(
            "location_quick_features",
            "std_lat std_long lat_change long_change mean_abs_lat_deriv"
            " mean_abs_long_deriv",
        ),
    ),
    "audio": (
        *(f"audio_naive:mfcc{i}:mean" for i in range(13)),
        *(f"audio_naive:mfcc{i}:std" for i in range(13)),
        *_names("audio_properties", "max_abs_value normalization_multiplier"),
    ),
    "phone-state": (
        *_names("discrete:app_state", "is_active is_inactive is_background missing"),
        *_names("discrete:battery_plugged", "is_ac is_usb is_wireless missing"),
        *_names(
            "discrete:battery_state",
            "is_unknown is_unplugged is_not_charging is_discharging is_charging"
            " is_full missing",
        ),
        *_names("discrete:on_the_phone", "is_False is_True missing"),
        *_names(
            "discrete:ringer_mode",
            "is_normal is_silent_no_vibrate is_silent_with_vibrate missing",
        ),
        *_names(
            "discrete:wifi_status",
            "is_not_reachable is_reachable_via_wifi is_reachable_via_wwan missing",
        ),
    ),
    "environment": _names(
        "lf_measurements",
        "light pressure proximity_cm proximity relative_humidity battery_level"
        " screen_brightness temperature_ambient",
    ),
    "time-of-day": _names(
        "discrete:time_of_day",
        "between0and6 between3and9 between6and12 between9and15 between12and18"
        " between15and21 between18and24 between21and3",
    ),
}
#: Columns the paper leaves out, by name.
NOT_IN_PAPER = frozenset(
    _names(
        "lf_measurements",
        "proximity relative_humidity screen_brightness temperature_ambient",
    )
)
_REQUIRED = ("timestamp", *(column for block in AGENTS.values() for column in block))


@dataclass(frozen=True, eq=False)
class UserTable:
    """One user's file as numbers, rows in file order.

    Args:
        columns: the column names.
        values: `(rows, columns)` float64; NaN where nothing was recorded.
    """

    columns: tuple[str, ...]
    values: NDArray[np.float64]

    def take(self, columns: Iterable[str]) -> NDArray[np.float64]:
        """`(rows, len(columns))` values of the named columns."""
        place = {name: i for i, name in enumerate(self.columns)}
        return self.values[:, [place[name] for name in columns]]

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels the file has, without their prefix."""
        return tuple(
            name.removeprefix("label:")
            for name in self.columns
            if name.startswith("label:")
        )


def read_user_file(path: Path) -> UserTable:
    """Read `<user>.features_labels.csv.gz`, or the same file unpacked.

    Raises:
        DataError: the file cannot be read, is damaged or not in the documented format.
    """
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path.name}: expected a whole gzip file, got a truncated or damaged one"
            f" ({error}); fetch it again"
        ) from error
    except OSError as error:
        raise DataError(
            f"{path.name}: expected a readable file, got {error.strerror or error}"
        ) from error
    return parse(data, path.name)


def parse(data: bytes, file: str) -> UserTable:
    """Parse the text of a user file.

    Args:
        data: the unpacked CSV: a header, then one row per minute.
        file: name for error messages.

    Raises:
        DataError: header, shape or a value is not as documented.
    """
    lines = data.splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    if len(lines) < 2:
        raise DataError(
            f"{file}: expected a header and at least one row, got {len(lines)} lines"
        )
    columns = _header(lines[0], file)
    _check_widths(lines, len(columns), file)
    values = _numbers(lines[1:], columns, file)
    _check_values(columns, values, file)
    return UserTable(columns, values)


def _header(line: bytes, file: str) -> tuple[str, ...]:
    columns = tuple(line.decode("utf-8-sig", errors="replace").split(","))
    counts = Counter(columns)
    missing = [name for name in _REQUIRED if name not in counts]
    known = {*_REQUIRED, "label_source"}
    unknown = [c for c in columns if c not in known and not c.startswith("label:")]
    repeated = [name for name, count in counts.items() if count > 1]
    labelled = any(c.startswith("label:") for c in columns)
    wrong = [
        f"{word} {_some(names)}"
        for word, names in (
            ("missing", missing if labelled else [*missing, "label:*"]),
            ("unexpected", unknown),
            ("repeated", repeated),
        )
        if names
    ]
    if wrong:
        raise DataError(
            f"{file}: expected the header of a features_labels file (timestamp,"
            f" {len(_REQUIRED) - 1} features, label:*, label_source), got"
            f" {len(columns)} columns: {'; '.join(wrong)}"
        )
    return columns


def _check_widths(lines: list[bytes], width: int, file: str) -> None:
    for number, line in enumerate(lines, start=1):
        if (fields := line.count(b",") + 1) != width:
            raise DataError(
                f"{file}, line {number}: expected {width} fields, got {fields};"
                " the file is damaged, fetch it again"
            )


def _numbers(
    rows: list[bytes], columns: tuple[str, ...], file: str
) -> NDArray[np.float64]:
    """Every field as the nearest float64, whatever version of whatever parser."""
    values = np.empty((len(rows), len(columns)))
    for i, row in enumerate(rows):
        cells = row.split(b",")
        try:
            values[i] = [float(cell) if cell else math.nan for cell in cells]
            bad = b"_" in row  # Python's float takes 1_000
        except ValueError:
            bad = True
        if bad:
            column = next(j for j, cell in enumerate(cells) if not _is_number(cell))
            text = cells[column][:40].decode("utf-8", errors="replace")
            raise DataError(
                f"{file}, line {i + 2}, column {columns[column]}: expected a number or"
                f" nothing, got {text!r}"
            )
    return values


def _is_number(cell: bytes) -> bool:
    try:
        float(cell or b"0")
    except ValueError:
        return False
    return b"_" not in cell


def _check_values(
    columns: tuple[str, ...], values: NDArray[np.float64], file: str
) -> None:
    """Finite values, a time stamp in each row, labels 0, 1 or nothing."""
    is_label = np.array([name.startswith("label:") for name in columns])
    stamp = columns.index("timestamp")
    stampless = np.zeros_like(values, dtype=bool)
    stampless[:, stamp] = np.isnan(values[:, stamp])
    strange = is_label & ~np.isnan(values) & (values != 0) & (values != 1)
    for expected, bad in (
        (
            "a finite float32 number or nothing",
            np.abs(values) > np.finfo(np.float32).max,
        ),
        ("a time stamp", stampless),
        ("0, 1 or nothing", strange),
    ):
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise DataError(
                f"{file}, line {row + 2}, column {columns[column]}: expected"
                f" {expected}, got {values[row, column]}"
            )


def _some(names: list[str], limit: int = 3) -> str:
    shown = ", ".join(repr(name[:60]) for name in names[:limit])
    more = len(names) - limit
    return f"{shown} and {more} more" if more > 0 else shown
