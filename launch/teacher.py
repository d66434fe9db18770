"""A teacher inference service.

python launch/teacher.py serve model=RUN2/model run=RUN3 [host=0.0.0.0 token_file=F]     serve until SIGTERM
python launch/teacher.py status endpoint=HOST:PORT [token_file=RUN3.token] [--json]      what it is doing
python launch/teacher.py label data=TILES model=RUN2/model out=NEW [part=I/N]            pseudo-labels of a data set

Every service has a token. With run= and no token_file= it is RUN3.token, which is made; the students of out=RUN3 find
it there.
`--json`, one line for scripts, is the one word that is not KEY=VALUE; it means json=true.
"""

import sys

from mkd.config.load import main
from mkd.config.schema import TeacherLabel, TeacherServe, TeacherStatus


def serve(config: TeacherServe) -> None:
    """Serve; torch is imported after the config has been checked, here and below."""
    from mkd.recipes import teacher_service

    teacher_service.serve(config)


def status(config: TeacherStatus) -> None:
    """Print the status of a service."""
    from mkd.recipes import teacher_service

    teacher_service.status(config)


def label(config: TeacherLabel) -> None:
    """Write the data set of pseudo-labels."""
    from mkd.recipes import label_dataset

    label_dataset.label(config)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--help" | "-h"]:
            print(__doc__)
        case ["status", *rest]:
            typed = ["json=true" if word == "--json" else word for word in rest]
            main(TeacherStatus, "teacher status", status, typed)
        case ["label", *rest]:
            main(TeacherLabel, "teacher label", label, rest)
        case ["serve", *rest]:
            main(TeacherServe, "teacher", serve, rest)
        case rest:
            main(TeacherServe, "teacher", serve, rest)
