#!/usr/bin/env python3
"""Breaks kernels one at a time in a copy of the sources and demands that the tests of the ops notice.

Each mutation replaces one piece of text that occurs exactly once in its .cpp file. The copy is built once. A mutant is
the mutated file compiled alone and linked before the libraries that hold the original, together with all tests of the
ops; it runs until one fails. Exit code 1 when a mutant survives, 2 when something cannot be built, the suite fails
without a mutation, or a mutation no longer fits its file.

Usage: tools/mutate_kernels.py [folder for the copy and its build] [-k text]     -k: only mutations whose name has text
"""
import argparse
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

TESTS = ["ops_golden", "optim", "tape", "surrogate", "gradients", "determinism"]
SOURCES = ["core", "cpu", "autograd", "models", "quant", "cuda", "tests", "bench", "tools"]
TIME_LIMIT_S = 900  # of one mutant; one that hangs is noticed too

# name, file, text, replacement
MUTATIONS = [
    ("rms_norm: eps doubled", "cpu/rms_norm_row.h", "double(cols) + eps)", "double(cols) + 2 * eps)"),
    ("rms_norm: sign in dx", "cpu/rms_norm_row.h", "dy[c] - x[c] * k)", "dy[c] + x[c] * k)"),
    ("layer_norm: unbiased variance", "cpu/layer_norm_row.h", "squares / double(cols)", "squares / double(cols - 1)"),
    ("layer_norm: term missing in dx", "cpu/layer_norm_row.h", "dy[c] - mean_g -", "dy[c] -"),
    ("rope: turned the other way", "cpu/rope.cpp", "? T(1) : T(-1)", "? T(-1) : T(1)"),
    ("attention: mask one key late", "cpu/attention.cpp", "return keys - rows + 1 + i;",
     "return std::min(keys, keys - rows + 2 + i);"),
    ("attention: delta missing", "cpu/attention.cpp", "(ds_row[j] - delta)", "ds_row[j]"),
    ("attention: lost accumulation", "cpu/attention.cpp", "beta = 1;", "beta = 0;"),
    ("softmax: dx off by 1e-6", "cpu/softmax.cpp", "(dy(r, c) - mean)", "(dy(r, c) - T(1 - 1e-6) * mean)"),
    ("mse: factor missing", "cpu/loss.cpp", "T(2 * double(*elements", "T(1 * double(*elements"),
    ("kl: sign of db", "cpu/loss.cpp", "* per_q - cpu::exp(a[c] - p.largest) * per_p",
     "* per_q + cpu::exp(a[c] - p.largest) * per_p"),
    ("cross entropy: one not taken off", "cpu/loss.cpp", "* per_p - 1);", "* per_p);"),
    ("embedding: lost accumulation", "cpu/embedding.cpp", "sum[c] += from", "sum[c] = from"),
    ("fake_quant: clipping ignored in dfactor", "cpu/activation_grid.h", "(q == v ? ratio : T(0))", "ratio"),
    ("fake_quant: factor missing", "cpu/activation_grid.h", "sum * double(s) / double(factor)", "sum * double(s)"),
    ("quantise_weight: sign of dzero", "cpu/rounding_backward.cpp", "T(-double(q.scale", "T(double(q.scale"),
    ("quantise_weight: last code off by one", "cpu/rounding.cpp", "(v < 0 ? T(0) : v > last ? last : v) - z",
     "(v < 0 ? T(0) : v > last + 1 ? last + 1 : v) - z"),
    ("quantise_weight: dw of the wrong step size", "cpu/rounding_backward.cpp", "per_w = s / piece.s0", "per_w = 1"),
    ("quantise_weight: start_scale moved by s", "cpu/rounding_backward.cpp",
     "q.decided_on == DecidedOn::scale ? T(1) : T(0)", "T(1)"),
    ("quantise_weight: decided on the scale", "cpu/rounding.cpp", "w[c] / piece.s0", "w[c] / piece.s"),
    ("regulariser: count off by one", "cpu/rounding_backward.cpp", "double(beta) / double(quantiser.w.count()))",
     "double(beta) / double(quantiser.w.count() + 1))"),
    ("regulariser: exponent of L_com itself", "cpu/rounding_backward.cpp", "exponent = beta - 1", "exponent = beta"),
    ("clip_grid: sign in dhigh", "cpu/grid.cpp", "- dz * slope * low", "+ dz * slope * low"),
    ("adamw: second moment at the rate of the first", "cpu/optimizer.cpp", "rest2 * (g[i] * g[i])",
     "rest1 * (g[i] * g[i])"),
    ("optimisers: upper bound ignored", "cpu/optimizer.cpp", "x > high ? high : x", "x"),
    ("matmul: da of a transposed operand", "autograd/ops/matmul.cpp", "da, b, trans_b, dy, Trans::yes",
     "da, b, opposite(trans_b), dy, Trans::yes"),
    ("tape: gradient overwritten", "autograd/tape.cpp", "ctx.kernels->add(ctx, grad, grad, g);", "grad = g;"),
    ("tape: shared bytes added to", "autograd/tape.cpp", "if (!grad.sole_owner()) grad = copy(ctx, grad);", ""),
    ("tape: result added to shared bytes", "autograd/tape.cpp", "addend.sole_owner() ? addend : Tensor(ctx_, shape, dtype)",
     "addend"),
    ("matmul_integers: one step for all columns", "cpu/matmul.cpp", "step_a[r] * step_b[c] * sum(r, c)",
     "step_a[r] * step_b[0] * sum(r, c)"),
    ("matmul_integers: addend taken off", "cpu/matmul.cpp", "(plus.data ? plus(r, c) : T(0))",
     "(plus.data ? -plus(r, c) : T(0))"),
    ("fake_quant: integers before the clip", "cpu/activation_grid.h",
     "out.integers(r, c) = f32_to_f8(float(integer_of(x[c], grid)))", "out.integers(r, c) = f32_to_f8(float(std::nearbyint(x[c] / grid.s)))"),
    ("quantise_weight: integers are codes", "cpu/rounding.cpp", "f32_to_f8(float(integer(c)))",
     "f32_to_f8(float(integer(c) + z))"),
    ("matmul: addend left out", "cpu/matmul.cpp", "(addend.data ? addend(r, c) : T(0))", "T(0)"),
    ("rms_norm: addend left out", "cpu/rms_norm_row.h", "(addend ? addend[c] : T(0))", "T(0)"),
    ("fused quantisers: gradient past the quantiser", "cpu/activation_grid.h", "pass(dh.data(), r)",
     "pass(grad.row(r), r)"),
    ("fused quantisers: least element not kept", "cpu/activation_grid.h", "ranges(r, 0) = of_row.low",
     "ranges(r, 0) = T(0)"),
    ("layer_norm_quant: addend left out", "cpu/layer_norm_row.h", "(addend ? addend[c] : T(0))", "T(0)"),
    ("layer_norm_quant: mean of the row before", "cpu/norm_quant.cpp", "weight, bias, {m[r], s[r]}, in.cols",
     "weight, bias, {m[r > 0 ? r - 1 : 0], s[r]}, in.cols"),
    ("activation_quant: slope at the value of f", "cpu/activation_quant.cpp", "A::slope(in(r, c))",
     "A::slope(A::f(in(r, c)))"),
    ("gated_quant: up left out of dgate", "cpu/activation_quant.cpp", "dh[c] * u(r, c) *", "dh[c] *"),
    ("matmul: da written over what was collected", "autograd/ops/matmul.cpp",
     "ctx.kernels->matmul(ctx, da, dy, Trans::no, b, opposite(trans_b), {}, addend);",
     "ctx.kernels->matmul(ctx, da, dy, Trans::no, b, opposite(trans_b), {}, {});"),
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


def run_or_stop(command, what, **options):
    """Standard output and error of a command that must succeed."""
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if run.returncode != 0:
        stop(f"{what}:\n{run.stdout[-3000:]}")
    return run.stdout


def configure_and_build(copy, build):
    configure = ["cmake", "-S", copy, "-B", build, "-G", "Ninja", "-DCBQ_CUDA=OFF"]
    if not (build / "build.ninja").exists():
        run_or_stop(configure, "the copy cannot be configured")
    run_or_stop(["ninja", "-C", build, *(f"test_{t}" for t in TESTS)], "the suite does not compile")


def write_build_file(build, copy, mutants, chosen):
    """A build.ninja with one executable mutant_<i> per mutation, and mutant_none."""
    entries = json.loads((build / "compile_commands.json").read_text())
    commands = {pathlib.Path(entry["file"]): entry["command"] for entry in entries}
    last = run_or_stop(["ninja", "-C", build, "-t", "commands", f"test_{TESTS[0]}"], "no link command").splitlines()[-1]
    others = " ".join(f"CMakeFiles/test_{t}.dir/tests/{t}.cpp.o" for t in TESTS[1:])
    lines = ["rule run", f"  command = cd {build} && $line"]

    def add(output, line, inputs=""):
        lines.extend([f"build {output}: run {inputs}", "  line = " + line.replace("$", "$$")])

    def link(name, objects, inputs=""):
        line = last.replace(f"-o tests/test_{TESTS[0]}", f"-o {mutants / name} {objects} {others}")
        add(mutants / name, line, inputs)

    link("mutant_none", "")
    for i, (_, file, text, replacement) in enumerate(chosen):
        mutated = mutants / str(i) / file
        mutated.parent.mkdir(parents=True)
        mutated.write_text((copy / file).read_text().replace(text, replacement))
        # Of a header all that include it are compiled, with the mutant's folder before the others.
        users = [f for f in commands if f.exists() and f'#include "{file}"' in f.read_text()]
        sources = {mutated: commands[copy / file]} if file.endswith(".cpp") else {f: commands[f] for f in users}
        objects = []
        for source, command in sources.items():
            obj = mutants / str(i) / f"{source.stem}.o"
            command = command.replace(" -I", f" -I{mutants / str(i)} -I", 1)
            # A mutation may leave a variable unused: no warnings.
            add(obj, re.sub(r" -o \S+ -c \S+$", f" -w -o {obj} -c {source}", command), f"{source} | {mutated}")
            objects.append(str(obj))
        link(f"mutant_{i}", " ".join(objects), " ".join(objects))
    (mutants / "build.ninja").write_text("\n".join(lines) + "\n")


def failing_test(executable, copy):
    """Name of the first test that fails, or nothing."""
    try:
        run = subprocess.run([executable, "--gtest_fail_fast"], cwd=copy, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, text=True, errors="replace", timeout=TIME_LIMIT_S)
    except subprocess.TimeoutExpired:
        return f"no end after {TIME_LIMIT_S} s"
    if run.returncode == 0:
        return ""
    failed = re.search(r"\[  FAILED  \] ([^\s,]+)", run.stdout)
    return failed.group(1) if failed else f"exit code {run.returncode}"


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("folder", nargs="?", type=pathlib.Path)
    arguments.add_argument("-k", default="", metavar="text")
    arguments = arguments.parse_args()
    repository = pathlib.Path(__file__).resolve().parent.parent
    temporary = None if arguments.folder else tempfile.TemporaryDirectory(prefix="mutate-")
    root = (arguments.folder or pathlib.Path(temporary.name)).resolve()
    copy, build, mutants = root / "source", root / "build", root / "mutants"
    copy_sources(repository, copy)
    chosen = [m for m in MUTATIONS if arguments.k in m[0]]
    for name, file, text, _ in chosen:
        count = (copy / file).read_text().count(text)
        if count != 1:
            stop(f"'{name}' does not fit {file}: its text occurs {count} times; adapt tools/mutate_kernels.py")
    configure_and_build(copy, build)
    shutil.rmtree(mutants, ignore_errors=True)
    mutants.mkdir()
    write_build_file(build, copy, mutants, chosen)
    run_or_stop(["ninja", "-C", mutants], "a mutant does not compile")
    failed = failing_test(mutants / "mutant_none", copy)
    if failed:
        stop(f"{failed} fails without any mutation")

    survivors = 0
    for i, (name, *_) in enumerate(chosen):
        killer = failing_test(mutants / f"mutant_{i}", copy)
        survivors += not killer
        print(f"killed    {name}  by {killer}" if killer else f"SURVIVED  {name}", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} mutations killed")
    sys.exit(1 if survivors or not chosen else 0)


if __name__ == "__main__":
    main()
