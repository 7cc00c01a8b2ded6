"""Tell whether transformers can load a kind of model: ``python -m sintonia.models.families TYPE``.

A process of its own, so that whoever asks stays free of torch. It prints why not and exits with
``REFUSED``, or exits with 0.
"""

from __future__ import annotations

import sys

import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

REFUSED = 3


def problem_of(model_type: str) -> str | None:
    """Return why no text can be written with a model of ``model_type``; ``None`` when it can."""
    if model_type not in CONFIG_MAPPING_NAMES:
        version = transformers.__version__
        return f'Its model_type "{model_type}" is unknown to transformers {version}.'
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return f'Its model_type "{model_type}" is none that continues a text.'
    return None


if __name__ == "__main__":
    reason = problem_of(sys.argv[1])
    sys.stdout.write(reason or "")
    sys.exit(REFUSED if reason else 0)
