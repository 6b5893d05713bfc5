#!/bin/sh
# Opens this program's checkpoints with the programs that people serve them with, and compares numbers. Makes a virtual
# environment with pinned versions below BUILD first; the wheels of torch are large, and llama.cpp is compiled, some
# minutes on two cores. Everything runs on the CPU.
#
#   tests/interop/run.sh BUILD [compressed_tensors | gptq | dense | llama_cpp ...]
#
# Model and text: those of CBQ_TEST_DATA (or ../shared) where there is one, else examples/tiny-llama.
set -eu
build=$(cd "$1" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
shift
clients=${*:-compressed_tensors gptq dense llama_cpp}

# What Debian's python3 lacks: virtual environments, and the headers that one of the packages is compiled with.
if ! python3 -c 'import ensurepip, os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null; then
  install="apt-get install -y --no-install-recommends python3-venv python3-dev"
  if [ "$(id -u)" = 0 ]; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive $install
  else
    echo "missing packages; run as root: $install" >&2
    exit 1
  fi
fi

venv=$build/interop-venv
if ! cmp -s "$here/requirements.txt" "$venv/installed.txt"; then
  python3 -m venv "$venv"
  CMAKE_ARGS="-DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF -DLLAMA_CURL=OFF" "$venv/bin/pip" install --quiet \
    --disable-pip-version-check --no-binary llama-cpp-python -r "$here/requirements.txt"
  cp "$here/requirements.txt" "$venv/installed.txt"
fi

failed=""
for client in $clients; do
  CBQ="$build/cbq" "$venv/bin/python" "$here/with_$client.py" || failed="$failed $client"
done
if [ -n "$failed" ]; then
  echo "interop: failed:$failed" >&2
  exit 1
fi
echo "interop: all passed; vLLM and SGLang need a GPU and are not among the clients"
