"""Evaluate a model: python launch/evaluate.py model=RUN/model data=DATASET out=results.json [report=report.html].

Several side by side: 'model=[A,B,C]'. The temperature of a model's confidence: data=VALIDATION fit_temperature=true.
"""

from mkd.cli.exit import first_rank
from mkd.config.load import main
from mkd.config.schema import EvaluateRun


def work(config: EvaluateRun) -> str:
    """Evaluate, write the page when one is asked for, and return what to print."""
    from mkd.recipes.evaluate import evaluate, place_outputs, summary  # torch, after the checks of the config
    from mkd.recipes.evaluation_report import evaluation_report

    config = place_outputs(config)
    text = summary(evaluate(config))
    if config.report is None:
        return text
    if first_rank():
        evaluation_report(config)
    return f"{text}\nreport: {config.report}"


if __name__ == "__main__":
    main(EvaluateRun, "evaluate", work)
