"""Write the encoder that ships with the package, from a run of configs/default_model.yaml.

    python benchmarks/default_model.py runs/default_model

Weights go into fewshot_jax/adaptation/default in half precision; the config without the paths of its data. What
`load_pretrained` reads by the name "default", the encoder alone as a Hugging Face directory, goes into
fewshot_jax/models/default; without a run it is written again from the first.
"""

import argparse
import dataclasses
import shutil
from pathlib import Path

import jax
import numpy as np

from fewshot_jax.adaptation.saving import save_model
from fewshot_jax.adaptation.start import PACKAGED, start_of_default, start_of_run
from fewshot_jax.config import DataConfig, EpisodeConfig
from fewshot_jax.data.tokenization import save_tokenizer
from fewshot_jax.models.huggingface.save import save_pretrained
from fewshot_jax.models.huggingface.text_encoder import exported_text_encoder
from fewshot_jax.models.sources.names import DEFAULT, find_files
from fewshot_jax.training.export import TOKENS

SOURCES = {
    "books": "classic books in the public domain (Standard Ebooks and Project Gutenberg texts)",
    "CLINC150": "Larson et al., An Evaluation Dataset for Intent Classification and Out-of-Scope Prediction, EMNLP "
    "2019, CC BY 3.0; the 50 training intents of the first class split of ProtAugment (Dopierre et al., ACL 2021)",
}


def write_start(run: Path) -> None:
    """Write what 'adapt default' starts from."""
    start = start_of_run(run)
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


def write_encoder(directory: Path) -> None:
    """Write the encoder of that as a Hugging Face directory."""
    start = start_of_default()
    encoder = start.meta_params["params"]["features"]["encoder"]
    made = exported_text_encoder(start.model.module, encoder, tokens=TOKENS, path=PACKAGED)
    made.tokenizer.model_max_length = start.config.tokenizer.max_length
    shutil.rmtree(directory, ignore_errors=True)
    save_pretrained(directory, made, dtype=np.float16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?")
    arguments = parser.parse_args()
    if arguments.run is not None:
        write_start(arguments.run)
    encoder = find_files(DEFAULT).path
    write_encoder(encoder)
    for path in (*sorted(PACKAGED.iterdir()), *sorted(encoder.iterdir())):
        print(f"{path.parent.parent.name}/{path.name:24s} {path.stat().st_size / 1024:8.0f} KiB")


if __name__ == "__main__":
    main()
