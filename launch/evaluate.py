"""Evaluate a model: python launch/evaluate.py model=RUN/model data=DATASET out=results.json [report=report.html]."""

from mkd.build.evaluate import evaluate, summary
from mkd.build.pages import run_report
from mkd.config.load import main
from mkd.config.schema import EvaluateRun


def work(config: EvaluateRun) -> None:
    """Evaluate, print, and write the page when one is asked for."""
    print(summary(evaluate(config)))
    if config.report is not None:
        run_report(config)
        print(f"report: {config.report}")


if __name__ == "__main__":
    main(EvaluateRun, "evaluate", work)
