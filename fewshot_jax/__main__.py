"""``python -m fewshot_jax``, the same as ``fewshot-jax``."""

from fewshot_jax.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
