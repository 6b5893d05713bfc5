#!/usr/bin/env python3
"""Writes the ablation table of docs/method.md: one `cbq run` per row, on a model of your choice.

Usage: tools/ablation.py [--model DIR --calib FILE --eval FILE] [--nsamples N --seqlen T --windows K] [--cbq PATH]

Defaults are examples/tiny-llama and its texts. The rows on preprocessing run on a copy of the model with injected outliers:
some channels of every norm times 30 and the columns that read them divided by 30, which changes no output.
"""
import argparse
import json
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
FACTOR, EVERY = 30.0, 29  # of the injected outliers; every EVERYth channel has one


def read_tensors(path):
    """Header and values of a safetensors file of f16 or f32 tensors, as lists of floats."""
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    tensors = {}
    for name, info in header.items():
        begin, end = info["data_offsets"]
        code, width = {"F16": ("e", 2), "F32": ("f", 4)}[info["dtype"]]
        raw = data[8 + size + begin : 8 + size + end]
        tensors[name] = (info["shape"], list(struct.unpack(f"<{len(raw) // width}{code}", raw)))
    return tensors


def write_tensors(path, tensors):
    """All tensors as f32, so that scaling loses nothing."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, (shape, values) in tensors.items():
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + 4 * len(values)]}
        offset += 4 * len(values)
    text = json.dumps(header).encode()
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for _, values in tensors.values():
            out.write(struct.pack(f"<{len(values)}f", *values))


def inject_outliers(source, target):
    shutil.copytree(source, target)
    shards = sorted(target.glob("*.safetensors"))
    tensors = {}
    for shard in shards:
        tensors.update(read_tensors(shard))
        shard.unlink()
    (target / "model.safetensors.index.json").unlink(missing_ok=True)
    readers = {
        "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
    }
    for name, (shape, norm) in tensors.items():
        block, _, kind = name.removesuffix(".weight").rpartition(".")
        if kind not in readers:
            continue
        channels = range(3, len(norm), EVERY)
        for c in channels:
            norm[c] *= FACTOR
        for layer in readers[kind]:
            (rows, cols), w = tensors[f"{block}.{layer}.weight"]
            for r in range(rows):
                for c in channels:
                    w[r * cols + c] /= FACTOR
    write_tensors(target / "model.safetensors", tensors)
    config = json.loads((target / "config.json").read_text())
    config["dtype"] = config["torch_dtype"] = "float32"
    (target / "config.json").write_text(json.dumps(config, indent=1))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    example = ROOT / "examples" / "tiny-llama"
    parser.add_argument("--model", type=pathlib.Path, default=example / "model")
    parser.add_argument("--calib", type=pathlib.Path, default=example / "calib.jsonl")
    parser.add_argument("--eval", type=pathlib.Path, default=example / "eval.jsonl")
    parser.add_argument("--nsamples", type=int, default=128)
    parser.add_argument("--seqlen", type=int, default=128)
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--cbq", default=str(ROOT / "cbq"))
    args = parser.parse_args()

    two, four = {"wbits": 2}, {"wbits": 4, "abits": 4}
    rows = [(f"window {w}, overlap {w - 1}", {**two, "window": w, "overlap": w - 1}) for w in (1, 2, 3)]
    rows.append(("window 2, grow", {**two, "window_schedule": "grow"}))
    rows += [(f"rounding {kind}", {**two, "rounding": kind}) for kind in ("nearest", "lora", "lora_ste", "dense", "sign", "weights")]
    rows += [("GPTQ", {**two, "method": "gptq"})]
    rows += [("homologous off", two), ("homologous on", {**two, "homologous": True})]
    rows += [("l2 and kl", two), ("l2 alone", {**two, "kl": 0}), ("kl alone", {**two, "l2": 0})]
    outliers = [(f"outliers, CFP {cfp}", {**four, "cfp": cfp}) for cfp in ("off", "paper", "msmodelslim")]

    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        inject_outliers(args.model, folder / "outliers")
        print("| setting | bits | nearest KL | KL | of nearest | perplexity | s |\n|---|---|---|---|---|---|---|")
        for name, settings in rows + outliers:
            model = folder / "outliers" if name.startswith("outliers") else args.model
            config = {"model": str(model.resolve()), "output_dir": str(folder / "out"), "dataset": str(args.calib.resolve()),
                      "nsamples": args.nsamples, "seqlen": args.seqlen,
                      "eval": {"data": [str(args.eval.resolve())], "seqlen": args.seqlen, "windows": args.windows}, **settings}
            (folder / "config.json").write_text(json.dumps(config))
            done = subprocess.run([args.cbq, "run", str(folder / "config.json"), "--json"], capture_output=True, text=True)
            if done.returncode != 0:
                sys.exit(f"{name}: {done.stderr.splitlines()[-1]}")
            report = json.loads(done.stdout)
            near, result = report["results"]["nearest"], report["results"]["quantised"]
            bits = f"W{settings['wbits']}A{settings.get('abits', 16)}"
            print(f"| {name} | {bits} | {near['kl']:.4f} | {result['kl']:.4f} | {result['kl'] / near['kl']:.2f} | "
                  f"{result['perplexity']:.3f} | {sum(report['time_s'].values()):.0f} |", flush=True)
            shutil.rmtree(folder / "out")


main()
