"""What the scripts share: a model, a text, this program's commands, and perplexity by its protocol on a model of
transformers."""
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile

os.environ.update({"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false",
                   "TQDM_DISABLE": "1", "TORCHDYNAMO_DISABLE": "1"})  # the compiler takes longer than the models

import torch

HERE = pathlib.Path(__file__).resolve().parent
SEQLEN, WINDOWS = 128, 24
EXAMPLE = HERE.parents[1] / "examples" / "tiny-llama"

torch.set_grad_enabled(False)
failures = []


def source():
    """Folder of the full-precision model, and the text to measure on."""
    data = pathlib.Path(os.environ.get("CBQ_TEST_DATA", HERE.parents[2] / "shared"))
    if (data / "models" / "llama-24m").is_dir():
        return data / "models" / "llama-24m", data / "data" / "novels-eval.jsonl"
    return example()


def example():
    """The same of the model that comes with the sources."""
    return EXAMPLE / "model", EXAMPLE / "eval.jsonl"


def cbq(*arguments):
    """Runs a command that prints JSON."""
    words = [os.environ["CBQ"], *map(str, arguments), "--json"]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(words)}: {done.stderr}")
    return json.loads(done.stdout)


def quantised(folder, model, formats, **settings):
    """Rounds the model to nearest and writes it into `folder`, the first of the formats at its top."""
    config = {"model": str(model), "output_dir": str(folder), "method": "rtn", "seqlen": SEQLEN, "export": formats,
              **settings}
    file = pathlib.Path(f"{folder}.json")
    file.write_text(json.dumps(config))
    cbq("run", file)
    return pathlib.Path(folder)


def cbq_perplexity(model, text):
    return cbq("eval", model, "--data", text, "--seqlen", SEQLEN, "--windows", WINDOWS)["perplexity"]


def windows(model, text):
    """Tokens by the client's own tokenizer: one BOS before each document, windows without overlap."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    bos = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
    stream = []
    for line in text.read_text().splitlines():
        stream += bos + tokenizer(json.loads(line)["text"], add_special_tokens=False)["input_ids"]
        if len(stream) >= SEQLEN * WINDOWS:
            break
    return torch.tensor(stream[: SEQLEN * WINDOWS]).reshape(WINDOWS, SEQLEN)


def perplexity(model, tokens):
    """exp of the mean over windows of the mean loss of the shifted targets."""
    losses = []
    for window in tokens.split(4):
        logits = model(window).logits.float()
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), window[:, 1:].flatten())
        losses.append(loss.item() * len(window))
    return math.exp(sum(losses) / len(tokens))


def dense_weights(folder):
    """The tensors of a dense export, by name."""
    from safetensors.torch import load_file

    tensors = {}
    for file in sorted(pathlib.Path(folder).glob("*.safetensors")):
        tensors.update(load_file(file))
    return tensors


def same_bits(a, b):
    as_integers = {2: torch.int16, 4: torch.int32}
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(
        a.contiguous().view(as_integers[a.element_size()]), b.contiguous().view(as_integers[b.element_size()]))


def equal_tensors(loaded, expected):
    """How many of the expected tensors are loaded with the same bits."""
    return sum(name in loaded and same_bits(loaded[name].to(tensor.dtype), tensor) for name, tensor in expected.items())


def report(client, scheme, text, passed=True):
    print(f"{client:<52} {scheme:<16} {text}{'' if passed else '   FAILED'}", flush=True)
    if not passed:
        failures.append(scheme)


def compare(client, scheme, equal, count, theirs, ours, limit=1e-3):
    """`equal` of `count` tensors have the same bits; perplexity there and here."""
    report(client, scheme, f"{equal} of {count} tensors equal, perplexity {theirs:.4f}, here {ours:.4f} "
           f"({100 * (theirs / ours - 1):+.3f} %)", equal == count and abs(theirs / ours - 1) < limit)


def check_all(client, schemes, check):
    """check(scheme, its settings, a new folder) for each; the exit code says whether all passed."""
    with tempfile.TemporaryDirectory() as temp:
        for number, (scheme, settings) in enumerate(schemes.items()):
            try:
                check(scheme, settings, pathlib.Path(temp) / str(number))
            except (RuntimeError, ValueError, KeyError) as error:
                report(client, scheme, str(error).splitlines()[-1].strip(), False)
    sys.exit(1 if failures else 0)
