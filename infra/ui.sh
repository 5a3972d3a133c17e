#!/usr/bin/env bash
# MLflow and Prefect on loopback, until Ctrl-C. `make ui` calls it; BIN is the environment's bin/.
set -euo pipefail

BIN=${BIN:-.venv/bin}
MLFLOW_PORT=${MLFLOW_PORT:-5000}
PREFECT_PORT=${PREFECT_PORT:-4200}
FOLDER=.autofreeze
DATABASE=$FOLDER/mlflow.db
export DO_NOT_TRACK=1 PREFECT_SERVER_ANALYTICS_ENABLED=false
export MLFLOW_DISABLE_TELEMETRY=true
# Else MLflow starts seven more processes, for jobs that nobody gives it.
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
# The page asks the API itself, and would ask the default port.
export PREFECT_SERVER_UI_API_URL="http://127.0.0.1:$PREFECT_PORT/api"

mkdir -p "$FOLDER"
test -f "$DATABASE" || echo "$DATABASE does not exist yet, so MLflow is empty; fill it with: make run"
# Not by the server, which a kill, or a run that starts at the same time, would stop half-way.
"$BIN/python" -c 'import pathlib, sys
from afcore.results.tracking_database import make_database
make_database(pathlib.Path(sys.argv[1]))' "$DATABASE"

# Each server leads a process group of its own: stopping it stops its children, and Ctrl-C reaches
# this script alone.
start() { # NAME COMMAND...
    set -m
    "${@:2}" >"$FOLDER/ui-$1.log" 2>&1 </dev/null &
    set +m
}

stop() {
    trap - EXIT INT TERM
    for pid in $MLFLOW $PREFECT; do kill -TERM -- "-$pid" 2>/dev/null || true; done
    # Prefect's server takes a second or two; whoever hangs is killed.
    for _ in $(seq 50); do
        kill -0 -- "-$MLFLOW" 2>/dev/null || kill -0 -- "-$PREFECT" 2>/dev/null || break
        sleep 0.2
    done
    for pid in $MLFLOW $PREFECT; do kill -KILL -- "-$pid" 2>/dev/null || true; done
    echo "Stopped."
}

answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

check_running() { # NAME PID
    kill -0 "$2" 2>/dev/null && return
    echo "$1 has ended; the last lines of $FOLDER/ui-$1.log:" >&2
    tail -n 15 "$FOLDER/ui-$1.log" >&2
    exit 1
}

for port in "$MLFLOW_PORT" "$PREFECT_PORT"; do
    if answers "$port"; then
        echo "Port $port is taken. Choose others: make ui MLFLOW_PORT=5001 PREFECT_PORT=4201" >&2
        exit 1
    fi
done

start mlflow "$BIN/mlflow" ui --host 127.0.0.1 --port "$MLFLOW_PORT" --workers 1 \
    --backend-store-uri "sqlite:///$DATABASE"
MLFLOW=$!
# The server has the database of the temporary servers that runs start, and so shows their flows.
start prefect "$BIN/prefect" server start --host 127.0.0.1 --port "$PREFECT_PORT"
PREFECT=$!
trap stop EXIT
trap 'exit 0' INT TERM

echo "Starting; stop with Ctrl-C."
for server in "mlflow $MLFLOW $MLFLOW_PORT" "prefect $PREFECT $PREFECT_PORT"; do
    read -r name pid port <<<"$server"
    until answers "$port"; do
        check_running "$name" "$pid"
        sleep 0.5
    done
done
echo "MLflow:  http://127.0.0.1:$MLFLOW_PORT"
echo "Prefect: http://127.0.0.1:$PREFECT_PORT"
while true; do
    check_running mlflow "$MLFLOW"
    check_running prefect "$PREFECT"
    sleep 1
done
