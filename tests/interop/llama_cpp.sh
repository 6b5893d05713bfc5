#!/bin/sh
# llama.cpp reads what `"export": "gguf"` writes: it generates text, and its perplexity on the same token ids agrees with
# `cbq eval` within 0.5 %. Runs on the CPU. The first call builds llama.cpp, some minutes on two cores.
# Usage: tests/interop/llama_cpp.sh [build folder, default build]. Models: examples/, and those of CBQ_TEST_DATA, else
# ../shared, where they exist.
set -eu
cd "$(dirname "$0")/../.."
build=${1:-build}
work=$build/interop/llama_cpp
shared=${CBQ_TEST_DATA:-../shared}
[ -x "$build/cbq" ] || { echo "llama_cpp.sh: expected the program $build/cbq; build it first" >&2; exit 2; }

# ---- the client, pinned
packages="llama-cpp-python==0.3.16 sentencepiece==0.2.3 numpy==2.4.6"
mkdir -p "$work"
if [ "$(cat "$work/installed" 2>/dev/null)" != "$packages" ]; then
  python3 -m venv "$work/venv"
  CMAKE_ARGS="-DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF -DLLAMA_CURL=OFF" \
    "$work/venv/bin/python" -m pip install --quiet --no-binary llama-cpp-python $packages
  echo "$packages" >"$work/installed"
fi

# ---- one case: name, model, data, seqlen, prompt, settings of the run
failed=0
check() {
  name=$1 model=$2 data=$3 seqlen=$4 prompt=$5
  shift 5
  out=$work/$name
  rm -rf "$out"
  echo "{}" >"$work/config.json"
  "$build/cbq" run "$work/config.json" --set "model=$model" --set "output_dir=$out" --set method=rtn \
    --set export=gguf --set "seqlen=$seqlen" "$@" \
    2>"$work/$name.log" >&2 || { cat "$work/$name.log" >&2; exit 1; }
  ours=$("$build/cbq" eval "$out/model.gguf" --data "$data" --seqlen "$seqlen" --windows 8 --json 2>>"$work/$name.log" |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["perplexity"])')
  "$work/venv/bin/python" tests/interop/llama_cpp_client.py --name "$name" --gguf "$out/model.gguf" \
    --tokenizer "$model/tokenizer.model" --data "$data" --seqlen "$seqlen" --windows 8 --perplexity "$ours" \
    --prompt "$prompt" || failed=1
}

tiny=examples/tiny-llama
check tiny-q4_0 $tiny/model $tiny/eval.jsonl 128 "Once upon a time" --set wbits=4 --set sym=true --set group_size=32
check tiny-q8_0 $tiny/model $tiny/eval.jsonl 128 "Once upon a time" --set wbits=8 --set sym=true
if [ -d "$shared/models" ]; then
  llama=$shared/models/llama-24m novels=$shared/data/novels-eval.jsonl
  stories=$shared/models/stories-260k tales=$shared/data/tinystories-eval.jsonl
  check llama-24m-q4_0 "$llama" "$novels" 512 "The old man" --set wbits=4 --set sym=true --set group_size=32
  check llama-24m-q4_0-w3 "$llama" "$novels" 512 "The old man" --set wbits=3 --set group_size=64
  check llama-24m-q4_1 "$llama" "$novels" 512 "The old man" --set wbits=4 --set group_size=128
  check llama-24m-q8_0 "$llama" "$novels" 512 "The old man" --set wbits=8 --set sym=true
  check stories-260k-q4_0 "$stories" "$tales" 256 "Once upon a time" --set wbits=4 --set sym=true
  check stories-260k-q8_0 "$stories" "$tales" 256 "Once upon a time" --set wbits=8 --set sym=true
else
  echo "llama_cpp.sh: no models under $shared/models; set CBQ_TEST_DATA to their folder to check those too"
fi
exit $failed
