#!/usr/bin/env python3
"""Writes a table of docs/results.md: every scheme with round-to-nearest, GPTQ and each rounding kind, on one model.

Usage: tools/results.py --model DIR --calib FILE --eval FILE [--device cuda] [--jobs N] [--only SCHEME,...]
                        [--nsamples 128 --seqlen 1024 --windows 64 --epochs 3] [--cbq PATH]

Runs are independent; with --jobs some share the device, so their times count only beside each other.
"""
import argparse
import concurrent.futures
import json
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCHEMES = {
    "W4A16": {"wbits": 4},
    "W3A16": {"wbits": 3},
    "W2A16": {"wbits": 2},
    "W2A16 G=64": {"wbits": 2, "group_size": 64},
    "W4A8": {"wbits": 4, "abits": 8},
    "W4A4": {"wbits": 4, "abits": 4},
}
METHODS = {"nearest": {"method": "rtn"}, "GPTQ": {"method": "gptq"}} | {
    f"CBQ {kind}": {"rounding": kind} for kind in ("nearest", "lora", "lora_ste", "dense", "sign", "weights")
} | {
    f"CBQ {kind} from GPTQ": {"rounding": kind, "rounding_start": "gptq"} for kind in ("lora_ste", "dense", "weights")
}


def run(options, folder, scheme, method):
    """One `cbq run`: quality of the quantised model, and seconds."""
    name = f"{scheme}-{method}".replace(" ", "-").replace("=", "")
    config = {
        "model": str(options.model.resolve()),
        "output_dir": str(folder / name),
        "dataset": str(options.calib.resolve()),
        "nsamples": options.nsamples,
        "seqlen": options.seqlen,
        "epochs": options.epochs,
        "device": options.device,
        "precision": options.precision,
        "act_sym": False,
        "eval": {"data": [str(options.eval.resolve())], "seqlen": options.seqlen, "windows": options.windows},
    } | SCHEMES[scheme] | METHODS[method]
    file = folder / f"{name}.json"
    file.write_text(json.dumps(config))
    begin = time.monotonic()
    done = subprocess.run([options.cbq, "run", str(file), "--json"], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{name}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)["results"], time.monotonic() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "calib", "eval"):
        parser.add_argument(f"--{name}", type=pathlib.Path, required=True)
    for name, default in (("nsamples", 128), ("seqlen", 1024), ("windows", 64), ("epochs", 3), ("jobs", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--only", default=",".join(SCHEMES))
    parser.add_argument("--cbq", default=str(ROOT / "cbq"))
    options = parser.parse_args()
    rows = [(scheme, method) for scheme in options.only.split(",") for method in METHODS]
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        jobs = [pool.submit(run, options, pathlib.Path(folder), *row) for row in rows]
        print("| bits | method | perplexity | KL | top-1 | s |\n|---|---|---|---|---|---|")
        for i, ((scheme, method), job) in enumerate(zip(rows, jobs)):
            results, seconds = job.result()
            if i == 0:
                print(f"| 16 | full precision | {results['full_precision']['perplexity']:.3f} | 0 | 100 % | |")
            q = results["quantised"]
            print(f"| {scheme} | {method} | {q['perplexity']:.3f} | {q['kl']:.4f} | {100 * q['top1']:.1f} % | {seconds:.0f} |",
                  flush=True)


if __name__ == "__main__":
    main()
