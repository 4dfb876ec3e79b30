#!/bin/sh
# The tests under other versions of Python and of what adderlab needs: one environment each, in a
# temporary folder (or $ADDERLAB_MATRIX, where they stay), from the committed files.
#
#   tests/matrix.sh                                # all of them: the whole suite each, hours
#   tests/matrix.sh 3.13:newest 3.11:floors        # these
#   tests/matrix.sh --quick 3.13:newest            # a selection: no proofs of minutes, no compilers' sweeps
#
# newest: whatever pip finds; floors: the oldest versions that pyproject.toml allows, exactly; pinned:
# those of constraints.txt. A Python is looked for on the PATH and under pyenv; one that is not there is
# said not to be. Prints a row of a Markdown table for each (docs/versions.md keeps the last) and exits
# with 1 where a test failed.
set -eu
cd "$(dirname "$0")/.."
quick="tests/unit/files tests/unit/task tests/unit/models tests/unit/runs tests/unit/cli
tests/unit/evaluation tests/unit/engine/test_descent.py tests/unit/engine/test_updates.py
tests/unit/engine/test_torch.py tests/unit/engine/test_native.py tests/unit/engine/test_native_build.py
tests/unit/training/test_run.py tests/unit/training/test_warm_start.py tests/unit/training/test_schedule.py
tests/unit/proof/test_prove.py tests/unit/publish/test_export.py"
selection="" wanted=""
for word in "$@"; do
    case $word in
        --quick) selection=$quick ;;
        [0-9]*:newest | [0-9]*:floors | [0-9]*:pinned) wanted="$wanted $word" ;;
        *) echo "matrix.sh: no $word; write --quick or PYTHON:newest, PYTHON:floors, PYTHON:pinned" >&2; exit 2 ;;
    esac
done
[ "$wanted" ] || wanted="3.11:floors 3.11:newest 3.12:newest 3.13:newest 3.14:newest"
folder=${ADDERLAB_MATRIX:-$(mktemp -d)}
mkdir -p "$folder"

interpreter() {
    command -v "python$1" >/dev/null && "python$1" -c "" 2>/dev/null && command -v "python$1" && return
    for own in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/python; do
        [ -x "$own" ] && echo "$own" && return
    done
    true
}

requirements() { # what to install beside the package, by the rule of that name
    case $1 in
        pinned) cat constraints.txt ;;
        floors) "$2" - <<'EOF'
import re, tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
for need in (*project["dependencies"], *project["optional-dependencies"]["dev"]):
    name, floor = re.match(r"([\w-]+)\S*>=([\w.]+)", need).groups()
    print(f"{name}=={floor}")
EOF
            ;;
    esac
}

echo "| Python | versions | torch | numpy | scipy | tests | result |"
echo "|---|---|---|---|---|---|---|"
failed=0
for each in $wanted; do
    version=${each%:*} rule=${each#*:}
    python=$(interpreter "$version")
    if [ -z "$python" ]; then
        echo "| $version | $rule | | | | none | not run: no Python $version here |"
        continue
    fi
    place=$folder/$version-$rule log=$folder/$version-$rule.log
    requirements "$rule" "$python" >"$folder/$rule.txt"
    [ -x "$place/bin/python" ] || "$python" -m venv "$place"
    if ! "$place/bin/pip" install -q -c "$folder/$rule.txt" -e '.[dev]' >"$log" 2>&1; then
        echo "| $version | $rule | | | | none | does not install: $(grep -m1 ERROR "$log" | cut -c1-120) |"
        failed=1
        continue
    fi
    # shellcheck disable=SC2086  # a selection is several words
    "$place/bin/python" -m pytest -p no:cacheprovider ${MATRIX_PYTEST:-} $selection >>"$log" 2>&1 || failed=1
    versions=$("$place/bin/python" -c "
import importlib.metadata as m, platform
print(platform.python_version(), *(m.version(n) for n in ('torch', 'numpy', 'scipy')), sep='|')")
    IFS='|' read -r own torch numpy scipy <<EOF
$versions
EOF
    what=$([ "$selection" ] && echo "a selection (--quick)" || echo "all but the slow ones")
    echo "| $own | $rule | $torch | $numpy | $scipy | $what | $(tail -1 "$log") |"
done
exit $failed
