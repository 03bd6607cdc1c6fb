#!/usr/bin/env bash
# Pictures per second of vecstore-embed next to the bare loop of ONNX Runtime on the same card: one lane and several, CUDA and
# TensorRT, f32 and f16, with how busy the card was. Prints a table in Markdown, for docs/PERFORMANCE.md.
#
#   benches/gpu.sh                     on a machine with an NVIDIA card and its driver
#   DEVICE=cpu benches/gpu.sh          the same on the processor, to see that it works
#
# Fetches what it needs with pip into target/gpu (about 3 GB with TensorRT): ONNX Runtime, CUDA and cuDNN, and what makes the
# models and pictures. Variables choose what is done:
#
#   ORT_DYLIB_PATH   a library of onnxruntime-gpu that is there already, instead of pip's
#   DEVICE           cuda, or cpu                                       (cuda)
#   CARDS            numbers of the cards, as in 0,1                    (0)
#   PROVIDERS        cuda, tensorrt, or both                            ("cuda tensorrt"; TensorRT only where it can be had)
#   LANES            how many models on each card                       ("1 2 4"; on the processor "1 2")
#   BATCHES          pictures per inference                             ("32 128"; on the processor "32")
#   COUNT            pictures per round                                 (20000; on the processor 128)
#   ROUNDS           rounds, of which the median counts                 (3; on the processor 1)
#   WORKERS          threads that decode                                (one per processor; on the processor 1)
#   GPU_DIR          where all of it is kept                            (target/gpu)
#   PYTHON           a Python 3 with venv                               (python3)
set -euo pipefail
cd "$(dirname "$0")/.."
exec </dev/null

device=${DEVICE:-cuda}
case $device in
  cuda) counts=("1 2 4" "32 128" 20000 3 "$(nproc)") ;;
  cpu) counts=("1 2" "32" 128 1 1) ;;
  *)
    echo "DEVICE: expected cuda or cpu, found $device" >&2
    exit 2
    ;;
esac
cards=${CARDS:-0}
read -ra lanes <<<"${LANES:-${counts[0]}}"
read -ra batches <<<"${BATCHES:-${counts[1]}}"
count=${COUNT:-${counts[2]}}
rounds=${ROUNDS:-${counts[3]}}
workers=${WORKERS:-${counts[4]}}
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
dir=$(realpath -m "${GPU_DIR:-$target/gpu}")
export CARGO_TARGET_DIR=$target CARGO_TERM_COLOR=never
mkdir -p "$dir/engines"

say() { printf '%s\n' "$*" >&2; }

if [[ $device == cuda ]] && ! nvidia-smi -L >&2; then
  say 'nvidia-smi finds no card: install the driver, or try the script with DEVICE=cpu'
  exit 1
fi

venv=$dir/venv
[[ -x $venv/bin/python ]] || "${PYTHON:-python3}" -m venv "$venv"
pip() { "$venv/bin/python" -m pip "$@"; }
packages() { "$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))'; }

if [[ -f $dir/inputs/vit-b-32.onnx && -f $dir/inputs/vit-b-32-fp16.onnx ]]; then
  say "models and pictures: $dir/inputs"
else
  say 'making models and pictures'
  pip install --quiet numpy pillow onnx
  "$venv/bin/python" benches/embed/inputs.py "$dir/inputs"
fi

library=${ORT_DYLIB_PATH:-}
tensorrt=no
if [[ -n $library ]]; then
  [[ -f ${library%/*}/libonnxruntime_providers_tensorrt.so ]] && tensorrt=yes
else
  if [[ $device == cpu ]]; then
    pip install --quiet onnxruntime
  else
    pip install --quiet 'onnxruntime-gpu[cuda,cudnn]'
    # The release of CUDA that it was built for decides which TensorRT it takes.
    cuda=$("$venv/bin/python" -c 'from onnxruntime.capi.build_and_package_info import cuda_version as v; print(v.split(".")[0])')
    if [[ ${PROVIDERS:-tensorrt} == *tensorrt* ]]; then
      # As does the provider which TensorRT it is linked with.
      release=$(grep -ao 'libnvinfer\.so\.[0-9]*' "$(packages)/onnxruntime/capi/libonnxruntime_providers_tensorrt.so" | head -n 1)
      if pip install --quiet --extra-index-url https://pypi.nvidia.com "tensorrt-cu$cuda-libs==${release##*.}.*"; then
        tensorrt=yes
      else
        say 'TensorRT cannot be had with pip here, and is left out'
      fi
    fi
  fi
  library=$(find "$(packages)/onnxruntime/capi" -name 'libonnxruntime.so*' -type f | head -n 1)
fi
[[ -f $library ]] || {
  say "no libonnxruntime in $(packages)/onnxruntime/capi, and ORT_DYLIB_PATH names none"
  exit 1
}
# For the bare loop: vecstore-embed finds these by itself.
site=$(dirname "$(dirname "$(dirname "$library")")")
for folder in "$site"/nvidia/*/lib "$site"/tensorrt_libs; do
  [[ -d $folder ]] && LD_LIBRARY_PATH=$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
done
export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}

say 'building'
cargo build --release --locked --quiet -p vecstore-embed-benches --no-default-features -p vecstore-embed
export PATH=$target/release:$PATH

if [[ $device == cpu ]]; then
  providers=(cpu)
else
  read -ra providers <<<"${PROVIDERS:-cuda tensorrt}"
fi

clip=(--size=224 --crop=224 '--mean=0.481,0.458,0.408' '--std=0.269,0.261,0.276')
echo
echo '```'
if [[ $device == cuda ]]; then
  nvidia-smi --query-gpu=index,name,memory.total,driver_version --format=csv,noheader
fi
# What is there, and whether it computes what it should. An error ends the script: nothing is measured that does not work.
vecstore-embed doctor --backend onnxruntime --ort-lib "$library" --folder "$dir/inputs/small" \
  --model "$dir/inputs/vit-b-32.onnx" "${clip[@]}" --batch-size "${batches[0]}" --seconds 1 \
  --device "$([[ $device == cpu ]] && echo cpu || echo "cuda:$cards")"
echo '```'
echo
echo "Median of $rounds rounds of $count pictures, $workers threads decode; \"bare\" is the best of one session and as many as lanes."
echo
echo '| model | device | precision | batch | lanes | bare, pictures/s | run, pictures/s | of bare | card busy, bare | card busy, run |'
echo '|---|---|---|---:|---:|---:|---:|---:|---:|---:|'

# MODEL DEVICE PRECISION BATCH LANES
row() {
  embed infer --row --model "$dir/inputs/$1.onnx" --ort-lib "$library" --pictures "$dir/inputs/small" --count "$count" \
    --rounds "$rounds" --workers "$workers" --device "$2" --precision "$3" --batch "$4" --lanes "$5" \
    --engine-cache "$dir/engines" --dir "$dir"
}

failed=0
try() { row "$@" || { say "not measured: $*"; failed=$((failed + 1)); }; }

for provider in "${providers[@]}"; do
  if [[ $provider == tensorrt && $tensorrt == no ]]; then
    say 'TensorRT: not measured, there is no library for it'
    continue
  fi
  on=$([[ $provider == cpu ]] && echo cpu || echo "$provider:$cards")
  for batch in "${batches[@]}"; do
    for lane in "${lanes[@]}"; do
      try vit-b-32 "$on" full "$batch" "$lane"
      case $provider in
        # On the processor half precision is emulated, and says nothing.
        cuda) try vit-b-32-fp16 "$on" full "$batch" "$lane" ;;
        tensorrt) try vit-b-32 "$on" fp16 "$batch" "$lane" ;;
      esac
    done
  done
done
if ((failed)); then
  say "$failed of the measurements failed, see above"
  exit 1
fi
