#!/bin/sh
# What Kubernetes runs in an executor's pod before it takes it away (Spark's preStop hook): the executor, process 1, is asked by SIGPWR to hand its
# shuffled data to others, and has until SECONDS_LEFT have passed; the container's end ends this as well. Spark's own script expects `ps` and bash.
SECONDS_LEFT=110
kill -s PWR 1
while [ "$SECONDS_LEFT" -gt 0 ]; do
    sleep 1
    SECONDS_LEFT=$((SECONDS_LEFT - 1))
done
