"""launch/throughput.py teacher: the service beside a bare forward pass, its transport, and how many a cluster needs."""

import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from mkd.benchmarks.contenders import median_ratio, medians, requirement_lines, run_interleaved
from mkd.benchmarks.network import write_random_model
from mkd.benchmarks.reporting import machine_facts, markdown, write_json
from mkd.benchmarks.settings import TeacherSpeedRun
from mkd.benchmarks.teacher.services import (
    INSTANT_IDENTITY,
    connected_student,
    instant_network,
    running_service,
)
from mkd.benchmarks.teacher.simulate import MOST_WAIT, teachers_needed
from mkd.benchmarks.teacher.timings import (
    answer_intervals,
    forward_rate,
    random_tiles,
    round_trip,
    step_waits,
)
from mkd.config.schema import TeacherConfig
from mkd.distributed.world import find_world
from mkd.recipes.teacher_service import identity_of

LAUNCH = Path(__file__).resolve().parents[3] / "launch" / "teacher.py"
STEP_FACTOR = 1.5  # a student's step in units of its teacher's time: the teacher has capacity
LOWER_BOUNDS = {"service_vs_bare": 0.9, "transport_gb_per_s": 0.8}
UPPER_BOUNDS = {"student_wait_share": MOST_WAIT}
STUDENTS = (1, 2, 4, 8, 16, 32, 64)
STEPS = (2, 3, 4, 6, 8, 12)  # a student's step in units of a teacher's time for one batch

Found = dict[str, Any]


def measure_teacher(config: TeacherSpeedRun) -> None:
    """Measure services, transport and a student's wait; simulate clusters; print and write all.

    Raises:
        ValueError: a service that does not start.
    """
    found: Found = {"settings": asdict(config), "machine": machine_facts(find_world(config.device).device)}
    found["of"] = {name: _measure_model(config, name) for name in config.models}
    first = found["of"][config.models[0]]
    found["service_vs_bare"] = min(each["service_vs_bare"] for each in found["of"].values())
    found["student_wait_share"] = max(each["student_wait_share"] for each in found["of"].values())
    found |= _measure_transport(config)
    found["teachers_needed"] = teachers_by_cluster(first["service_s"], found["round_trip_s"])
    print(f"\n{table(found)}\n\n{cluster_table(found['teachers_needed'])}")
    write_json(config.json, found)


def _measure_model(config: TeacherSpeedRun, name: str) -> Found:
    """Return a network's rates bare and as a service, its seconds of a batch, and how long a student waits."""
    device = find_world(config.device).device
    names, black = [f"class {n}" for n in range(config.classes)], [(0, 0, 0)] * config.classes
    images = random_tiles(config.batch, config.size)
    times: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        model, card = write_random_model(folder, name, names, black)
        given = {"model": folder, "device": device, "max_batch": config.batch, "max_tile": config.size}
        with running_service(str(LAUNCH), *(f"{key}={value}" for key, value in given.items())) as endpoint:
            connect = partial(connected_student, endpoint, model, identity_of(card))

            def served() -> float:
                with connect() as teacher:
                    intervals = answer_intervals(teacher, images, config.seconds)
                times.extend(intervals)
                return config.batch * len(intervals) / sum(intervals)

            # The service and the bare pass, interleaved: same weights, same images.
            bare = partial(forward_rate, model, images, device, config.seconds)
            print(f"{name}, batches of {config.batch} tiles of {config.size} x {config.size}:")
            rates = run_interleaved({"bare": bare, "service": served}, config.rounds, "tiles/s")
            # A student whose steps leave its teacher time to spare.
            step_s = STEP_FACTOR * sum(times) / len(times)
            with connect() as teacher:
                waits = step_waits(teacher, model, images, step_s, config.seconds)
    return {
        "service_vs_bare": median_ratio(rates["service"], rates["bare"]),
        "tiles_per_s": medians(rates),
        "service_s": times,
        "step_s": step_s,
        "student_wait_share": sum(waits) / (sum(waits) + step_s * len(waits)),
    }


def _measure_transport(config: TeacherSpeedRun) -> Found:
    """Return GB/s to and from a teacher that computes nothing, and seconds of one batch there and back."""
    images = random_tiles(config.batch, config.size)
    network = instant_network()
    side = ("-m", "mkd.benchmarks.teacher.services", str(config.batch), str(config.size))
    with (
        running_service(*side) as endpoint,
        connected_student(endpoint, network, INSTANT_IDENTITY) as teacher,
    ):
        intervals = answer_intervals(teacher, images, config.seconds)
        moved = images.numel() + images.numel() // 3  # RGB there, labels back
        return {
            "transport_gb_per_s": moved * len(intervals) / sum(intervals) / 1e9,
            "round_trip_s": round_trip(teacher, images),
        }


def teachers_by_cluster(times: list[float], travel_s: float) -> dict[str, dict[str, int | None]]:
    """Return the teachers needed by students and by step length in units of the mean time of a batch.

    Args:
        times: recorded seconds of one batch at a teacher.
        travel_s: seconds of one batch to an instant teacher and back.
    """
    mean = sum(times) / len(times)
    return {
        str(students): {
            str(step): teachers_needed(times, students, step * mean, TeacherConfig().depth, travel_s)
            for step in STEPS
        }
        for students in STUDENTS
    }


def table(found: Found) -> str:
    """Return the figures beside what is required, then the rates."""
    lines = requirement_lines(found, LOWER_BOUNDS, UPPER_BOUNDS)
    for name, each in found["of"].items():
        rates = each["tiles_per_s"]
        lines.append(
            f"{name:<28} {each['service_vs_bare']:10.3f}   service {rates['service']:.2f}, bare {rates['bare']:.2f} "
            f"tiles/s; a student waits {each['student_wait_share']:.3f}"
        )
    lines.append(f"{'round trip of a batch':<28} {1e3 * found['round_trip_s']:10.1f}   ms")
    return "\n".join(lines)


def cluster_table(needed: dict[str, dict[str, int | None]]) -> str:
    """Return the teachers needed as a Markdown table; a dash where no number is enough."""
    return markdown(
        [
            {"students": students, **{f"step = {step} x": teachers for step, teachers in row.items()}}
            for students, row in needed.items()
        ]
    )
