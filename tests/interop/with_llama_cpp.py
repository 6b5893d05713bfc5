"""gguf exports in llama.cpp: it generates text, its tokenizer gives the ids of sentencepiece, and its perplexity on the
same ids is within 0.5 %: its products quantise activations to 8 bits, and its cache is f16."""
from common import *  # first: it sets the environment that the libraries read

import importlib.metadata

import llama_cpp
import numpy as np
import sentencepiece

CLIENT = f"llama-cpp-python {importlib.metadata.version('llama-cpp-python')}"
LIMIT = 5e-3
SCHEMES = {
    "Q4_0, W4 g32": {"wbits": 4, "sym": True, "group_size": 32},
    "Q4_0, W3 g64": {"wbits": 3, "sym": False, "group_size": 64},
    "Q4_1, W4 g128": {"wbits": 4, "sym": False, "group_size": 128},
    "Q8_0, W8": {"wbits": 8, "sym": True},
}


def negative_log_likelihood(model, ids):
    """Mean over the shifted targets of a window."""
    model.reset()
    model.eval(ids)
    logits = model.scores[: len(ids) - 1].astype(np.float64)
    top = logits.max(axis=1, keepdims=True)
    log_sum = top[:, 0] + np.log(np.exp(logits - top).sum(axis=1))
    return np.mean(log_sum - logits[np.arange(len(ids) - 1), ids[1:]])


def equal_ids(model, tokenizer, texts):
    """Texts with equal ids, of those that the normaliser of sentencepiece leaves alone: llama.cpp keeps their spaces."""
    sample = [text for text in texts[:500] if tokenizer.decode(tokenizer.encode(text)) == text]
    return sum(model.tokenize(text.encode(), add_bos=False) == tokenizer.encode(text) for text in sample), len(sample)


def check(scheme, settings, folder):
    quantised(folder, MODEL, ["gguf"], **settings)
    file = folder / "model.gguf"
    model = llama_cpp.Llama(str(file), n_ctx=SEQLEN, n_batch=SEQLEN, logits_all=True, verbose=False)
    theirs = math.exp(np.mean([negative_log_likelihood(model, ids) for ids in tokens]))
    ours = cbq_perplexity(file, TEXT)
    equal, count = equal_ids(model, tokenizer, texts)
    text = model("Once upon a time", max_tokens=16, temperature=0)["choices"][0]["text"]
    report(CLIENT, scheme, f"ids of {equal} of {count} texts equal, perplexity {theirs:.4f}, here {ours:.4f} "
           f"({100 * (theirs / ours - 1):+.3f} %); Once upon a time{text!r}",
           equal == count and abs(theirs / ours - 1) < LIMIT and text.strip() != "")


silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
llama_cpp.llama_log_set(silent, None)
MODEL, TEXT = source()
tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(MODEL / "tokenizer.model"))
texts = [json.loads(line)["text"] for line in TEXT.read_text().splitlines()]
stream = [id for text in texts for id in [tokenizer.bos_id()] + tokenizer.encode(text)]
tokens = [stream[w * SEQLEN : (w + 1) * SEQLEN] for w in range(WINDOWS)]
check_all(CLIENT, SCHEMES, check)
