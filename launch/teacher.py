"""A teacher inference service.

python launch/teacher.py serve model=RUN2/model [run=RUN3] [host=0.0.0.0 token_file=F]   serve until SIGTERM
python launch/teacher.py status endpoint=HOST:PORT [token_file=RUN3.token] [--json]      what it is doing
python launch/teacher.py label data=TILES model=RUN2/model out=NEW [part=I/N]            pseudo-labels of a data set

With run= and no token_file= the token is RUN3.token, which is made; the students of out=RUN3 find it there.
`--json`, one line for scripts, is the one word that is not KEY=VALUE; it means json=true.
"""

import sys

from mkd.config.load import main
from mkd.config.schema import TeacherLabel, TeacherServe, TeacherStatus
from mkd.recipes.label_dataset import label
from mkd.recipes.teacher_service import serve, status

if __name__ == "__main__":
    match sys.argv[1:]:
        case ["status", *rest]:
            typed = ["json=true" if word == "--json" else word for word in rest]
            main(TeacherStatus, "teacher status", status, typed)
        case ["label", *rest]:
            main(TeacherLabel, "teacher label", label, rest)
        case ["serve", *rest]:
            main(TeacherServe, "teacher", serve, rest)
        case rest:
            main(TeacherServe, "teacher", serve, rest)
