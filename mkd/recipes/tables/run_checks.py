"""Checks of an experiment before its first run is trained: keys, folders, classes, order, test set."""

from mkd.config.constraints import dataset
from mkd.config.cross_checks import check
from mkd.config.schema import Experiment, RunConfig
from mkd.dataset.index import DatasetIndex, read_index
from mkd.recipes.tables.run_list import goes_on_from, measured_runs, needed_runs, parse_run, test_set


def check_runs(config: Experiment) -> None:
    """Refuse a mistake in any run that the table needs, of any seed.

    Raises:
        ValueError: one sentence with run, seed and key.
    """
    check_order(config)
    measured, sets = measured_runs(config), _Sets()
    for seed in config.seeds:
        test = test_set(config, seed)
        dataset("test", test)
        for name in needed_runs(config):
            run = parse_run(config, name, seed)
            try:
                check(run, later=config.out)
                sets.check(run, test if name in measured else None)
            except ValueError as error:
                raise ValueError(f"run '{name}', seed {seed}: {error}") from None


def check_order(config: Experiment) -> None:
    """Refuse a run that goes on from one that is trained after it."""
    before: list[str] = []
    for name in needed_runs(config):
        for other in goes_on_from(config, name):
            if other in config.runs and other not in before:
                raise ValueError(
                    f"run '{name}' goes on from {{run:{other}}}, which is not trained before it; put '{other}' above"
                )
        before.append(name)


class _Sets:
    """Data sets of the runs, each index read once."""

    def __init__(self) -> None:
        self._indexes: dict[str, DatasetIndex] = {}

    def check(self, run: RunConfig, test: str | None) -> None:
        """Refuse tiles without labels where labels are needed, and sets of other classes than the labelled one."""
        if run.data.classes is not None:
            raise ValueError(
                f"data.classes={run.data.classes}: an experiment reads its sets many times: pack plain folders first, "
                "by python -m shards pack"
            )
        labelled = self._read(run.data.labelled)
        for key, path in (("data.labelled", run.data.labelled), ("data.val", run.data.val), ("test", test)):
            if path is None:
                continue
            index = self._read(path)
            if index.labelled < index.samples:
                raise ValueError(f"{key}={path}: {index.samples - index.labelled} of its tiles have no label")
            if index.classes != labelled.classes:
                raise ValueError(
                    f"{key}={path} has the classes {', '.join(index.classes)}, data.labelled has "
                    f"{', '.join(labelled.classes)}; give sets of the same classes"
                )
        if run.data.unlabelled is not None:
            self._read(run.data.unlabelled)

    def _read(self, path: str) -> DatasetIndex:
        if path not in self._indexes:
            self._indexes[path] = read_index(path)
        return self._indexes[path]
