#!/usr/bin/env python3
"""Breaks kernels one at a time in a copy of the sources and demands that the tests of the ops notice.

Each mutation replaces one piece of text that occurs exactly once in its file. The copy is built once; a mutation then
recompiles one file and relinks the tests, which run until one fails. Exit code 1 when a mutation survives, 2 when the
suite cannot be built, fails without a mutation, or a mutation no longer fits its file.

Usage: tools/mutate_kernels.py [folder for the copy and its build] [-k text]     -k: only mutations whose name has text
"""
import argparse
import pathlib
import shutil
import subprocess
import sys
import tempfile

TESTS = ["ops_golden", "optim", "tape", "surrogate", "gradients", "determinism"]
SOURCES = ["core", "cpu", "autograd", "models", "quant", "cuda", "tests", "bench", "tools"]
TIME_LIMIT_S = 900  # of one test; a mutation that hangs is noticed too

# name, file, text, replacement
MUTATIONS = [
    ("rms_norm: eps doubled", "cpu/rms_norm.cpp", "double(x.cols) + eps)", "double(x.cols) + 2 * eps)"),
    ("rms_norm: sign in dx", "cpu/rms_norm.cpp", "dy(r, c) - x(r, c) * k)", "dy(r, c) + x(r, c) * k)"),
    ("layer_norm: unbiased variance", "cpu/layer_norm.cpp", "squares / double(x.cols)", "squares / double(x.cols - 1)"),
    ("layer_norm: term missing in dx", "cpu/layer_norm.cpp", "dy(r, c) - mean_g -", "dy(r, c) - 0 * mean_g -"),
    ("rope: turned the other way", "cpu/rope.cpp", "? T(1) : T(-1)", "? T(-1) : T(1)"),
    ("attention: mask one key late", "cpu/attention.cpp", "return keys - rows + 1 + i;",
     "return std::min(keys, keys - rows + 2 + i);"),
    ("attention: delta missing", "cpu/attention.cpp", "(ds_row[j] - delta)", "(ds_row[j] - 0 * delta)"),
    ("attention: lost accumulation", "cpu/attention.cpp", "beta = 1;", "beta = 0;"),
    ("softmax: dx off by 1e-6", "cpu/softmax.cpp", "(dy(r, c) - mean)", "(dy(r, c) - T(1 - 1e-6) * mean)"),
    ("mse: factor missing", "cpu/loss.cpp", "T(2 * double(*elements", "T(1 * double(*elements"),
    ("kl: sign of db", "cpu/loss.cpp", "* per_q - cpu::exp(a[c] - p.largest) * per_p",
     "* per_q + cpu::exp(a[c] - p.largest) * per_p"),
    ("cross entropy: one not taken off", "cpu/loss.cpp", "* per_p - 1);", "* per_p);"),
    ("embedding: lost accumulation", "cpu/embedding.cpp", "sum[c] += from", "sum[c] = from"),
    ("fake_quant: clipping ignored in dfactor", "cpu/fake_quant.cpp", "(q == v ? ratio : T(0))", "ratio"),
    ("fake_quant: factor missing", "cpu/fake_quant.cpp", "sum * double(s) / double(factor)", "sum * double(s)"),
    ("quantise_weight: sign of dzero", "cpu/rounding_backward.cpp", "T(-double(q.scale", "T(double(q.scale"),
    ("quantise_weight: last code off by one", "cpu/rounding.h", "last(T((1 << q.grid.bits) - 1))",
     "last(T(1 << q.grid.bits))"),
    ("regulariser: count off by one", "cpu/rounding_backward.cpp", "T(total / double(quantiser.w.count()))",
     "T(total / double(quantiser.w.count() + 1))"),
    ("clip_grid: sign in dhigh", "cpu/grid.cpp", "- dz * slope * low", "+ dz * slope * low"),
    ("adamw: second moment at the rate of the first", "cpu/optimizer.cpp", "rest2 * (g[i] * g[i])",
     "rest1 * (g[i] * g[i])"),
    ("matmul: da of a transposed operand", "autograd/ops/matmul.cpp", "da, b, trans_b, dy, Trans::yes",
     "da, b, opposite(trans_b), dy, Trans::yes"),
    ("tape: gradient overwritten", "autograd/tape.cpp", "ctx.kernels->add(ctx, grad, grad, g);", "grad = g;"),
    ("tape: shared bytes added to", "autograd/tape.cpp", "if (!grad.sole_owner()) grad = copy(ctx, grad);", ""),
    ("optimiser: gradient left in its slot", "autograd/optim.cpp", "std::exchange(parameter.slot->grad, Tensor())",
     "parameter.slot->grad"),
]


def stop(text):
    print(f"mutate: {text}", file=sys.stderr)
    sys.exit(2)


def copy_sources(repository, copy):
    """Brings the copy up to date, leaving unchanged files alone so that they are not compiled again."""
    for old in SOURCES:
        for path in (copy / old).rglob("*") if (copy / old).exists() else []:
            if path.is_file() and not (repository / path.relative_to(copy)).exists():
                path.unlink()
    for path in [repository / "CMakeLists.txt", *(p for s in SOURCES for p in (repository / s).rglob("*"))]:
        target = copy / path.relative_to(repository)
        if not path.is_file() or (target.exists() and target.read_bytes() == path.read_bytes()):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


def build(folder):
    """Error text, or nothing."""
    run = subprocess.run(["cmake", "--build", folder, "--target", *(f"test_{t}" for t in TESTS)],
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return "" if run.returncode == 0 else run.stdout[-3000:]


def failing_test(copy, folder):
    """Name of the first test that fails, or nothing."""
    for test in TESTS:
        command = [folder / "tests" / f"test_{test}", "--gtest_brief=1", "--gtest_fail_fast"]
        try:
            run = subprocess.run(command, cwd=copy, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                 timeout=TIME_LIMIT_S)
        except subprocess.TimeoutExpired:
            return f"{test} (no end after {TIME_LIMIT_S} s)"
        if run.returncode != 0:
            return test
    return ""


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("folder", nargs="?", type=pathlib.Path)
    arguments.add_argument("-k", default="", metavar="text")
    arguments = arguments.parse_args()
    repository = pathlib.Path(__file__).resolve().parent.parent
    temporary = None if arguments.folder else tempfile.TemporaryDirectory(prefix="mutate-")
    root = (arguments.folder or pathlib.Path(temporary.name)).resolve()
    copy, folder = root / "source", root / "build"
    copy_sources(repository, copy)
    # -O1: the arithmetic is the same, and a mutation costs less to compile.
    configure = subprocess.run(["cmake", "-S", copy, "-B", folder, "-G", "Ninja", "-DCBQ_CUDA=OFF",
                                "-DCMAKE_CXX_FLAGS_RELEASE=-O1"],
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if configure.returncode != 0:
        stop(f"the copy cannot be configured:\n{configure.stdout[-3000:]}")
    chosen = [m for m in MUTATIONS if arguments.k in m[0]]
    for name, file, text, _ in chosen:
        count = (copy / file).read_text().count(text)
        if count != 1:
            stop(f"'{name}' does not fit {file}: its text occurs {count} times; adapt tools/mutate_kernels.py")
    error = build(folder)
    if error:
        stop(f"the suite does not compile:\n{error}")
    failed = failing_test(copy, folder)
    if failed:
        stop(f"{failed} fails without any mutation")

    survivors = []
    for name, file, text, replacement in chosen:
        path = copy / file
        original = path.read_text()
        path.write_text(original.replace(text, replacement))
        error = build(folder)
        killer = "" if error else failing_test(copy, folder)
        path.write_text(original)
        if error:
            stop(f"'{name}' does not compile:\n{error}")
        print(f"{'killed  ' if killer else 'SURVIVED'}  {name}{'  by ' + killer if killer else ''}", flush=True)
        if not killer:
            survivors.append(name)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mutations killed")
    sys.exit(1 if survivors or not chosen else 0)


if __name__ == "__main__":
    main()
