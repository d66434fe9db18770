"""The tables of launch/throughput.py scaling, in Markdown."""

from typing import Any

from mkd.benchmarks.scaling.devices import MACHINES, assumptions
from mkd.benchmarks.scaling.predict import WORKS

Found = dict[str, Any]
# Parts of a measured step in the order of the table; what follows is compute.
PARTS = ("data", "teacher", "publish", "all_reduce", "batchnorm", "exchange", "sums")
SENT = ("gradients", "batchnorm", "exchange", "sums")
SPLIT = ("compute", "all_reduce", "batchnorm", "sums", "exchange", "stragglers", "data", "teacher")


def report(found: Found) -> str:
    """Return everything that was measured and predicted."""
    settings, machine = found["settings"], found["machine"]
    sections = [
        f"Measured: {settings['model']}, {settings['batch']} labelled and as many unlabelled tiles of "
        f"{settings['crop']} px a rank, float32, gloo, {machine['cores']} cores for all processes together",
        time_table(found),
        "Sent by each rank in a step, MB (an ideal algorithm's bytes), and collective calls",
        volume_table(found),
        overlap_line(found["overlap"]),
        "Predicted from one rank, the bare link and the shared cores, beside the measured step (local teacher)",
        validation_table(found["validation"]),
        f"Predicted: {settings['predict']}, tiles of {settings['size']} px, bf16; none of these machines was measured",
        *(machine_table(name, each) for name, each in found["predicted"].items()),
        "What is assumed",
        assumption_table(found["predicted"]),
    ]
    return "\n\n".join(sections)


def time_table(found: Found) -> str:
    """Return the split of the measured steps, ms; of a teacher in the same process the time is that of labelling."""
    rows = []
    for kind in ("local", "service"):
        for ranks, parts in found[kind].items():
            seconds = parts["seconds"]
            rest = sum(seconds.values()) - sum(seconds.get(p, 0.0) for p in PARTS)
            cells = [rest, *(seconds.get(p, 0.0) for p in PARTS), sum(seconds.values())]
            rows.append([f"{ranks}, {kind}", *(f"{1e3 * c:.1f}" for c in cells)])
    return markdown(["ranks, teacher", "compute", *PARTS, "step, ms"], rows)


def volume_table(found: Found) -> str:
    """Return the volumes of the measured steps."""
    rows = []
    for kind in ("local", "service"):
        for ranks, parts in found[kind].items():
            sent = [f"{parts['sent'].get(p, 0.0) / 1e6:.3f}" for p in SENT]
            calls = [f"{parts['calls'].get(p, 0.0):.0f}" for p in SENT]
            published = parts["published_bytes"] / 1e6
            rows.append(
                [
                    f"{ranks}, {kind}",
                    *(f"{s} ({c})" for s, c in zip(sent, calls, strict=True)),
                    f"{published:.1f}",
                ]
            )
    return markdown(["ranks, teacher", *SENT, "EMA, by rank 0"], rows)


def overlap_line(overlap: Found) -> str:
    """Return what the trace shows."""
    return (
        f"Overlap by torch.profiler, {overlap['network']}, 2 gloo ranks: of {1e3 * overlap['reduce_s']:.0f} ms with an "
        f"all-reduce of gradients under way ({overlap['buckets']} buckets) {100 * overlap['share']:.0f} % lie inside "
        f"the {1e3 * overlap['backward_s']:.0f} ms of backward"
    )


def validation_table(rows: list[Found]) -> str:
    """Return predicted beside measured steps."""
    cells = [
        [
            str(row["ranks"]),
            f"{1e3 * row['predicted_s']:.1f}",
            f"{1e3 * row['measured_s']:.1f}",
            f"{row['ratio']:.2f}",
        ]
        for row in rows
    ]
    return markdown(["ranks", "predicted, ms", "measured, ms", "predicted / measured"], cells)


def machine_table(name: str, predicted: Found) -> str:
    """Return tiles/s and efficiency by work and number of GPUs, and the split of the largest."""
    head = ["GPUs"]
    for work in WORKS:
        head += [f"{work}: tiles/s", "efficiency"]
    by_place = {(row["work"], row["gpus"]): row for row in predicted["rows"]}
    sizes = sorted({row["gpus"] for row in predicted["rows"]})
    rows = []
    for gpus in sizes:
        cells = [str(gpus)]
        for work in WORKS:
            row = by_place[work, gpus]
            some = (
                f" ({row['teachers']} teachers, sync_every >= {row['sync_every']})" if row["teachers"] else ""
            )
            cells += [f"{row['tiles_per_s']:.0f}", f"{row['efficiency']:.2f}{some}"]
        rows.append(cells)
    split_rows = []
    for work in WORKS:
        row = by_place[work, sizes[-1]]
        split_rows.append(
            [work, *(f"{1e3 * row['split'][p]:.1f}" for p in SPLIT), f"{1e3 * row['step_s']:.1f}"]
        )
    norms = "synchronised" if predicted["batchnorm_synchronised"] else "of each GPU by itself"
    return (
        f"{MACHINES[name].name}: {predicted['tflops']:.0f} TFLOP/s ({predicted['tflops_are']}), BatchNorm {norms}\n\n"
        + markdown(head, rows)
        + f"\n\nA step on {sizes[-1]} GPUs, ms:\n\n"
        + markdown(["work", *SPLIT, "step"], split_rows)
    )


def assumption_table(predicted: Found) -> str:
    """Return all figures that the prediction stands on, with their sources."""
    rows = [
        [
            "a training pass attains, TFLOP/s",
            *(f"{each['tflops']:.0f}" for each in predicted.values()),
            "; ".join(f"{name} {each['tflops_are']}" for name, each in predicted.items()),
        ]
    ]
    rows += [[name, *values, source] for name, values, source in assumptions()]
    return markdown(["figure", *MACHINES, "source"], rows)


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
