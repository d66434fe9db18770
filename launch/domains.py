"""Which intermediate domain to train on.

python launch/domains.py candidates=[DATASET,DATASET] target=DATASET out=FOLDER [source=RUN/model] [probe_steps=200]
"""

from mkd.config.load import main
from mkd.config.schema import DomainsRun


def work(config: DomainsRun) -> str:
    """Rank the candidates and return what to print; torch is imported after the config has been checked."""
    from mkd.recipes.data_choice.rank_domains import rank_domains

    return rank_domains(config)


if __name__ == "__main__":
    main(DomainsRun, "domains", work)
