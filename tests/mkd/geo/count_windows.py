"""How many windows the grid on the ground costs, beside those from a scene's corner: python FILE [TILE OVERLAP]."""

import sys

from mkd.geo.grid import covering_windows


def rows(side: int, tile: int, overlap: int, start: int) -> int:
    """Count the rows of windows of a square scene whose grid starts at this row."""
    return len({window.row for window in covering_windows(side, tile, tile, overlap, (start, 0))})


def main(tile: int = 512, overlap: int = 128) -> None:
    """Print a line for each side: windows from the corner, and the mean and most over all starts of the grid."""
    for side in (1536, 2048, 4096, 10_000, 30_000):
        corner = rows(side, tile, overlap, 0)
        found = [rows(side, tile, overlap, start) for start in range(tile - overlap)]
        mean, most = sum(found) / len(found), max(found)
        # Rows and columns start independently, so the mean of the product is the product of the means.
        print(
            f"{side} x {side} pixels: {corner**2} windows from the corner, on the ground in the mean "
            f"{100 * (mean / corner) ** 2 - 100:.1f} % more, at most {100 * (most / corner) ** 2 - 100:.1f} %"
        )


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:]))
