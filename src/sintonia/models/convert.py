"""Turn a GGUF file into a Hugging Face folder in float32, once.

Run as ``python -m sintonia.models.convert FILE FOLDER``, in a process of its own, so that
whoever asks for a model stays free of torch.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import transformers


def convert(source: Path, target: Path) -> None:
    """Write ``config.json``, ``model.safetensors`` and ``tokenizer.json`` of a GGUF file."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype="float32"
    )
    # The weights are plain float32 now; the mark of the format they came in forbids saving them.
    del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    model.save_pretrained(target)
    for name in ("config.json", "generation_config.json"):
        _forget_maker(target / name)
    tokenizer = transformers.AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    tokenizer.save_pretrained(target)
    mend_digits(target / "tokenizer.json", source)


def _forget_maker(config_file: Path) -> None:
    """Drop what says which version of transformers wrote the file: equal models, equal hashes."""
    config = json.loads(config_file.read_bytes())
    for key in ("transformers_version", "_name_or_path"):
        config.pop(key, None)
    config_file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def mend_digits(tokenizer_file: Path, source: Path) -> None:
    """Split digits one by one where the GGUF says so.

    The conversion of the tokenizer keeps GPT-2's pattern only; ``tokenizer.ggml.pre = smollm``
    means that pattern after a split at each digit.
    """
    from gguf import GGUFReader

    if GGUFReader(source).fields["tokenizer.ggml.pre"].contents() != "smollm":
        return
    value = json.loads(tokenizer_file.read_bytes())
    digits = {"type": "Digits", "individual_digits": True}
    value["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, value["pre_tokenizer"]]}
    tokenizer_file.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    transformers.utils.logging.disable_progress_bar()
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
