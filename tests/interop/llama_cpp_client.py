"""One GGUF file in llama.cpp: its tokenizer, its perplexity beside that of `cbq eval`, and a continuation."""

import argparse
import importlib.metadata
import json
import sys

import llama_cpp
import numpy as np
import sentencepiece

LIMIT = 0.005  # largest relative difference of the perplexities


def windows_of(texts, tokenizer, seqlen, count):
    """BOS and ids of each text, concatenated and cut, as `cbq eval` does it."""
    stream = []
    for text in texts:
        stream += [tokenizer.bos_id()] + tokenizer.encode(text)
    return [stream[w * seqlen : (w + 1) * seqlen] for w in range(min(count, len(stream) // seqlen))]


def perplexity(model, windows):
    """exp of the mean over windows of the mean loss of the shifted targets."""
    losses = []
    for ids in windows:
        model.reset()
        model.eval(ids)
        logits = model.scores[: len(ids) - 1].astype(np.float64)
        top = logits.max(axis=1, keepdims=True)
        log_sum = top[:, 0] + np.log(np.exp(logits - top).sum(axis=1))
        losses.append(np.mean(log_sum - logits[np.arange(len(ids) - 1), ids[1:]]))
    return float(np.exp(np.mean(losses)))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for option in ("--name", "--gguf", "--tokenizer", "--data", "--prompt"):
        parser.add_argument(option, required=True)
    for option in ("--seqlen", "--windows"):
        parser.add_argument(option, required=True, type=int)
    parser.add_argument("--perplexity", required=True, type=float)
    args = parser.parse_args()

    with open(args.data, encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines if line.strip()]
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=args.tokenizer)
    log = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(log, None)
    model = llama_cpp.Llama(args.gguf, n_ctx=args.seqlen, n_batch=args.seqlen, logits_all=True, verbose=False)

    # llama.cpp keeps spaces that the normaliser of sentencepiece removes: texts that it leaves alone must agree.
    sample = [t for t in texts[:500] if tokenizer.decode(tokenizer.encode(t)) == t]
    equal = sum(model.tokenize(t.encode(), add_bos=False) == tokenizer.encode(t) for t in sample)
    found = perplexity(model, windows_of(texts, tokenizer, args.seqlen, args.windows))
    difference = abs(found / args.perplexity - 1)
    text = model(args.prompt, max_tokens=24, temperature=0)["choices"][0]["text"]

    print(
        f"llama-cpp-python {importlib.metadata.version('llama-cpp-python')}  {args.name}: "
        f"perplexity {found:.4f}, cbq eval {args.perplexity:.4f}, difference {100 * difference:.3f} %; "
        f"ids of {equal} of {len(sample)} texts equal; {args.prompt!r} -> {text!r}"
    )
    if not difference <= LIMIT or not text.strip() or equal != len(sample):
        sys.exit(f"{args.name}: expected a difference of at most {100 * LIMIT} %, equal ids and a text")


if __name__ == "__main__":
    main()
