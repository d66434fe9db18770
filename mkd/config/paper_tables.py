"""table=N and figure=N of launch/experiment.py: a file of configs/experiment, and a folder for its page."""

from collections.abc import Mapping

from mkd.config.overrides import Override, unquoted

KINDS = ("table", "figure")


def spell_out(given: Mapping[str, Override], files: str) -> dict[str, Override]:
    """Return the arguments of an experiment with experiment= and page= in place of what table= or figure= says.

    Args:
        given: arguments by key.
        files: names of configs/experiment, between commas.

    Raises:
        ValueError: both of them, one beside experiment=, or one that there is not at this scale.
    """
    asked = [kind for kind in KINDS if kind in given]
    if not asked:
        if "scale" in given:
            raise ValueError(f"{given['scale']} is for table= and figure=; give one of them, or experiment=")
        return dict(given)
    if len(asked) == 2 or "experiment" in given:
        typed = ", ".join(str(given[key]) for key in (*asked, "experiment") if key in given)
        raise ValueError(f"{typed}: give one of table=, figure= and experiment=")
    kind = asked[0]
    scale = unquoted(given["scale"].typed) if "scale" in given else "demo"
    page = f"{kind}{unquoted(given[kind].typed)}"
    there = [name for name in files.split(", ") if "/" in name and name.rpartition("/")[2].startswith(KINDS)]
    if f"{scale}/{page}" not in there:
        raise ValueError(f"{given[kind]} scale={scale} is not there; choose one of {', '.join(there)}")
    chosen = {"experiment": Override("experiment", f"{scale}/{page}"), "page": Override("page", page)}
    return {**chosen, **given}
