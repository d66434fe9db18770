"""What a value of a config must be; each rule names key, value and what is allowed."""

import math
from collections.abc import Sequence
from pathlib import Path


def dataset(key: str, path: str, classes: str | None = None) -> None:
    """Refuse what is no data set folder; with a class file it may be a plain folder."""
    if "://" in path:
        return  # asking a server is the reader's task; its sentence says what is wrong there
    if not Path(path).is_dir():
        raise ValueError(
            f"{key}={path}: no such folder; give a data set made by 'python -m shards pack|tile'"
        )
    if classes is None and not (Path(path) / "index.json").is_file():
        plain = "; pack a plain folder first, by 'python -m shards pack'"
        if key.startswith("data."):
            plain = "; for a plain folder of images give data.classes=FILE"
        elif key == "kd.source_data":
            plain += ", or give what the first stage has packed, OUT.data/labelled of its out="
        raise ValueError(
            f"{key}={path}: no index.json in it; the folder is not a data set or its build did not end{plain}"
        )


def model_folder(key: str, path: str) -> None:
    """Refuse what is no model folder."""
    for name in ("model.yaml", "model.safetensors"):
        if not (Path(path) / name).is_file():
            raise ValueError(
                f"{key}={path}: no {name} in it; give a model folder, such as RUN/model of an ended run"
            )


def endpoint(key: str, value: str) -> None:
    """Refuse what is not HOST:PORT."""
    host, _, port = value.rpartition(":")
    bare = host and "/" not in host and (":" not in host or (host[0], host[-1]) == ("[", "]"))
    if not bare or not (port.isascii() and port.isdecimal()) or not 0 < int(port) < 65536:
        raise ValueError(
            f"{key}: '{value}' is not HOST:PORT with a port in 1..65535 (an IPv6 address is in brackets)"
        )


def choice(key: str, value: object, allowed: Sequence[object]) -> None:
    """Refuse what is not among the allowed values."""
    if value not in allowed:
        names = ", ".join("null" if a is None else str(a) for a in allowed)
        raise ValueError(f"{key}={value} is not allowed; choose one of {names}")


def share(key: str, value: float) -> None:
    """Refuse what is not in [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"{key}={value}; a value in [0, 1] is allowed")


def not_negative(key: str, value: float) -> None:
    """Refuse what is negative or not finite."""
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError(f"{key}={value}; a finite value >= 0 is allowed")


def below_one(key: str, value: float) -> None:
    """Refuse what is not in [0, 1)."""
    if not 0 <= value < 1:
        raise ValueError(f"{key}={value}; a value in [0, 1) is allowed")


def positive(key: str, value: float) -> None:
    """Refuse what is not positive and finite."""
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{key}={value}; a finite value > 0 is allowed")


def at_least(key: str, value: int, low: int) -> None:
    """Refuse what is lower than ``low``."""
    if value < low:
        raise ValueError(f"{key}={value}; at least {low} is allowed")


def on_disk(key: str, path: str) -> None:
    """Refuse a URL where something is written or kept that only a disk can hold."""
    if "://" in path:
        raise ValueError(f"{key}={path} is a URL; what lies there must be on a disk: give a path")


def output_file(key: str, path: str, name: str) -> str:
    """Return the path of a file to write; a folder means the file of this name in it.

    Raises:
        ValueError: a URL, or a folder that has a folder of this name.
    """
    on_disk(key, path)
    file = Path(path) / name if path.endswith("/") or Path(path).is_dir() else Path(path)
    if file.is_dir():
        raise ValueError(f"{key}={path}: {file} is a folder; give the path of a file")
    return str(file)
