"""Benchmarks.

python launch/throughput.py cost model=hrnet_w48_psa size=1024 classes=6 json=F   parameters and GMAC
python launch/throughput.py speed model=hrnet_w48_psa size=512 batch=8 json=F     FPS, training step, TFLOP/s
python launch/throughput.py data images=DIR json=F       loading and packing beside other libraries (needs `make peers`)
python launch/throughput.py teacher json=F               the teacher service, and how many a cluster needs
python launch/throughput.py scaling json=F               steps on gloo ranks here, and an upper bound for GPUs
"""

import sys

from mkd.benchmarks.data.suite import measure_data
from mkd.benchmarks.network import measure_cost, measure_speed
from mkd.benchmarks.scaling.suite import measure_scaling
from mkd.benchmarks.settings import CostRun, DataSpeedRun, ScalingRun, SpeedRun, TeacherSpeedRun
from mkd.benchmarks.teacher.suite import measure_teacher
from mkd.config.load import main

if __name__ == "__main__":
    match sys.argv[1:2]:
        case ["cost"]:
            main(CostRun, "cost", measure_cost, sys.argv[2:])
        case ["speed"]:
            main(SpeedRun, "speed", measure_speed, sys.argv[2:])
        case ["data"]:
            main(DataSpeedRun, "data", measure_data, sys.argv[2:])
        case ["teacher"]:
            main(TeacherSpeedRun, "teacher", measure_teacher, sys.argv[2:])
        case ["scaling"]:
            main(ScalingRun, "scaling", measure_scaling, sys.argv[2:])
        case other:
            words = "cost, speed, data, teacher or scaling"
            sys.exit(f"throughput: the first word is {other or 'missing'}; choose {words}")
