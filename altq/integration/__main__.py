"""lm-evaluation-harness's own command line, to which checkpoints of altq are models of transformers.

python -m altq.integration run --model hf --model_args pretrained=CHECKPOINT --tasks piqa --device cpu
"""

from lm_eval.__main__ import cli_evaluate

import altq.integration  # noqa: F401  (registers the checkpoints)

if __name__ == "__main__":
    cli_evaluate()
