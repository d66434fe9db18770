"""Benchmarks.

python launch/throughput.py cost model=hrnet_w48_psa size=1024 classes=6 json=F   parameters and GMAC
python launch/throughput.py speed model=hrnet_w48_psa size=512 batch=8 json=F     FPS, training step, TFLOP/s
"""

import sys

from mkd.build.measure import measure_cost, measure_speed
from mkd.config.load import main
from mkd.config.schema import CostRun, SpeedRun

if __name__ == "__main__":
    match sys.argv[1:2]:
        case ["cost"]:
            main(CostRun, "cost", measure_cost, sys.argv[2:])
        case ["speed"]:
            main(SpeedRun, "speed", measure_speed, sys.argv[2:])
        case other:
            sys.exit(f"throughput: the first word is {other or 'missing'}; choose cost or speed")
