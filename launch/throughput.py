"""Benchmarks.

python launch/throughput.py cost model=hrnet_w48_psa size=1024 classes=6 json=F   parameters and GMAC
python launch/throughput.py speed model=hrnet_w48_psa size=512 batch=8 json=F     FPS, training step, TFLOP/s
python launch/throughput.py step json=F [--profile | --fit]   whole training steps beside a plain loop; what fits a GPU
python launch/throughput.py predict json=F               maps beside the bare forward pass and a plain sliding window
python launch/throughput.py data images=DIR json=F       loading and packing beside other libraries (needs `make peers`)
python launch/throughput.py teacher json=F               the teacher service, and how many a cluster needs
python launch/throughput.py scaling json=F               steps on gloo ranks here, and an upper bound for GPUs
python launch/throughput.py all [--quick] json=F         all of these; --quick in some minutes, for function only
"""

import sys
from functools import partial

from mkd.benchmarks.kinds import FLAGS, KINDS, measure
from mkd.config.load import main

if __name__ == "__main__":
    match sys.argv[1:2]:
        case ["--help" | "-h"]:
            print(__doc__)
        case [word] if word in KINDS:
            main(KINDS[word][0], word, partial(measure, word), [FLAGS.get(w, w) for w in sys.argv[2:]])
        case other:
            *words, last = KINDS
            choices = f"{', '.join(words)} or {last}"
            sys.exit(f"throughput: the first word is {other or 'missing'}; choose {choices}")
