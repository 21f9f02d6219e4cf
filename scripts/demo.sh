#!/bin/sh
# The main job on a real application: build five images, start them, vote, and see the vote counted.
set -eu
cd "$(dirname "$0")/.."
berth=${BERTH:-target/release/berth}

if [ "$(id -u)" != 0 ]; then
    echo "demo: this needs root: containers are made of namespaces, interfaces and packet rules" >&2
    exit 1
fi

"$berth" image inspect debian:bookworm >/dev/null 2>&1 || "$berth" image bootstrap debian:bookworm
"$berth" up --file examples/votes/compose.yaml

echo
echo "demo: casting a vote with curl"
curl --silent --show-error --fail --max-time 10 --output /dev/null --data choice=a "http://127.0.0.1:${VOTE_PORT:-8080}/"
# The worker moves the vote from the queue to the database; the page shows it as soon as that has happened.
tries=100
until curl --silent --fail --max-time 5 "http://127.0.0.1:${RESULT_PORT:-8081}/api/results" | grep -q '"total": *[1-9]'; do
    tries=$((tries - 1))
    if [ "$tries" = 0 ]; then
        echo "demo: the vote was not counted; see '$berth logs worker'" >&2
        exit 1
    fi
    sleep 0.1
done
curl --silent --fail --max-time 5 "http://127.0.0.1:${RESULT_PORT:-8081}/api/results"
echo
"$berth" ps
echo
echo "Vote at   http://127.0.0.1:${VOTE_PORT:-8080}"
echo "Watch at  http://127.0.0.1:${RESULT_PORT:-8081}"
echo "kubectl   kubectl --kubeconfig /var/lib/berth/kubeconfig get all --namespace votes"
echo "Remove    make clean-demo"
