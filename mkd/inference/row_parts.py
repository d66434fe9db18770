"""Finished bands of a map as files beside it: several processes make one map, and a killed job goes on."""

import shutil
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mkd.atomic import written_aside
from mkd.inference.band_predictor import MapBand

_LOOK_AGAIN = 0.2  # seconds between two looks for a band that another process makes


def rows_folder(output: Path) -> Path:
    """Return the folder of a map's finished rows."""
    return output.parent / f".tmp-{output.name}.rows"


class RowParts:
    """The folder ``.tmp-NAME.rows`` beside a map, with one file for each finished band of rows.

    A band's file is there once it is whole. Its name begins with the hash of what the map is made of, so that a band of
    another model, scene or setting is never taken for one of this map.
    """

    def __init__(self, output: Path, made_of: str) -> None:
        """Name the files; nothing is written.

        Args:
            output: the map.
            made_of: hash of model, settings and scene, hex.
        """
        self.folder, self._made_of = rows_folder(output), made_of[:32]

    def prepare(self, rows: Sequence[int], newest: int) -> list[int]:
        """Make the folder, remove what is no band of this map, and return the rows whose bands are missing.

        Args:
            rows: first row of each band.
            newest: time of the scene's newest file, ns since the epoch; a band that is older is made again.
        """
        self.folder.mkdir(exist_ok=True)
        mine = {self._path(row): row for row in rows}
        for path in self.folder.iterdir():
            if path not in mine or path.stat().st_mtime_ns < newest or not self._is_whole(mine[path]):
                path.unlink()
        return [row for path, row in mine.items() if not path.is_file()]

    def write(self, band: MapBand) -> None:
        """Write a band; it appears once it is whole.

        Raises:
            ValueError: the folder is not there.
            OSError: a disk that takes no more.
        """
        if not self.folder.is_dir():
            raise ValueError(
                f"{self.folder} is gone, or not seen from here: all processes must share the storage that output= lies "
                "on; let none remove that folder, and start again"
            )
        with written_aside(self._path(band.row)) as aside, open(aside, "wb") as file:
            np.savez(file, **band._asdict())  # not packed: that takes longer than writing them

    def bands(self, rows: Sequence[int]) -> Iterator[MapBand]:
        """Yield the bands in the order of their rows; waits for each that another process is still making.

        A process that fails ends the job, and so ends this wait: torchrun and Slurm stop the others.

        Raises:
            ValueError: a damaged file.
        """
        for row in rows:
            while not self._path(row).is_file():
                time.sleep(_LOOK_AGAIN)
            yield self._read(row)

    def remove(self) -> None:
        """Remove the folder, after the map is whole."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, row: int) -> Path:
        return self.folder / f"{self._made_of}-{row:09d}.npz"

    def _read(self, row: int) -> MapBand:
        path = self._path(row)
        try:
            with np.load(path) as found:
                values = {name: found[name] for name in MapBand._fields}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} is damaged ({error}): remove it, and start again") from None
        return MapBand(
            int(values["row"]),
            values["pixels"],
            values["class_pixels"],
            float(values["confidence"]),
            int(values["windows"]),
            int(values["empty_windows"]),
        )

    def _is_whole(self, row: int) -> bool:
        try:
            return self._read(row).row == row
        except ValueError:
            return False
