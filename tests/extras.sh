#!/usr/bin/env bash
# Every extra by itself: the wheel installed into an environment of its own, and the extra put to its use.
#
#     make extras                  all of them: about half an hour, and 2 GB at a time
#     tests/extras.sh WHEEL ray    some of them
set -euo pipefail
wheel=$(realpath "$1")
shift
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

used() { # what an extra is for, with RUN from the environment without extras
    case $1 in
    none) hiernas search random --data digits --limit 'params<=60k' --set final_epochs=1 --out "$work/RUN" ;;
    hub)
        mkdir pictures
        python -c "import pyarrow as pa, pyarrow.parquet as pq, io
from PIL import Image
def png(x): b = io.BytesIO(); Image.new('L', (12, 12), x).save(b, 'PNG'); return {'bytes': b.getvalue(), 'path': None}
rows = {'image': [png(i % 250) for i in range(200)], 'label': [i % 2 for i in range(200)]}
pq.write_table(pa.table(rows), 'pictures/train.parquet')"
        hiernas check random --data pictures
        hiernas push "$work/RUN" --to hf:nobody/nothing --dry-run pushed && ls pushed
        ;;
    openvino | litert | executorch) hiernas export "$work/RUN" --to "$1" ;;
    tensorboard) hiernas search random --data digits --limit 'params<=60k' --set final_epochs=1 --log tensorboard --out logged && ls logged/tensorboard/* ;;
    ray | dask) hiernas compare --data digits --limit 'params<=60k' --methods random,plain --seeds 2 --set final_epochs=1 --jobs 2 --backend "$1" --out "study-$1" ;;
    *) echo "there is no extra $1" >&2 && return 2 ;;
    esac
}

for extra in none ${@:-hub openvino litert executorch tensorboard ray dask}; do
    python3 -m venv env
    # shellcheck disable=SC1091
    source env/bin/activate
    package=$wheel
    [ "$extra" = none ] || package="$wheel[$extra]"
    pip install --quiet --no-compile torch==2.13.0 "$package"
    used "$extra"
    echo "== $extra: works"
    deactivate
    rm -rf env
done
