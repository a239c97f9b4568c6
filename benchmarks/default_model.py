"""Write the encoder that ships with the package, from a run of configs/default_model.yaml.

    python benchmarks/default_model.py runs/default_model

Weights go into fewshot_jax/adaptation/default in half precision; the config without the paths of its data.
"""

import argparse
import dataclasses
import shutil
from pathlib import Path

import jax
import numpy as np

from fewshot_jax.adaptation.saving import save_model
from fewshot_jax.adaptation.start import PACKAGED, start_of_run
from fewshot_jax.config import DataConfig, EpisodeConfig
from fewshot_jax.data.tokenization import save_tokenizer

SOURCES = {
    "books": "classic books in the public domain (Standard Ebooks and Project Gutenberg texts)",
    "CLINC150": "Larson et al., An Evaluation Dataset for Intent Classification and Out-of-Scope Prediction, EMNLP "
    "2019, CC BY 3.0; the 50 training intents of the first class split of ProtAugment (Dopierre et al., ACL 2021)",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    arguments = parser.parse_args()
    start = start_of_run(arguments.run)
    halved = jax.tree.map(lambda leaf: np.asarray(leaf, np.float16), start.meta_params)
    episodes = dataclasses.replace(start.config.episodes, domain_power=EpisodeConfig().domain_power)
    config = dataclasses.replace(start.config, data=DataConfig(), episodes=episodes)
    shutil.rmtree(PACKAGED, ignore_errors=True)
    save_model(
        PACKAGED,
        halved,
        config,
        {"trained on": SOURCES},
        lambda where: save_tokenizer(start.model.codec.tokenizer, where),
    )
    for path in sorted(PACKAGED.iterdir()):
        print(f"{path.name:24s} {path.stat().st_size / 1024:8.0f} KiB")


if __name__ == "__main__":
    main()
