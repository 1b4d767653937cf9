#!/bin/sh
# Stop what start.sh started in FOLDER: its jobs, then its two daemons by their own process ids.
set -u
FOLDER=$1
SLURM_CONF=$FOLDER/slurm.conf
export SLURM_CONF
timeout 10 scancel --user root 2>/dev/null
for name in slurmd slurmctld; do
    pid=$(cat "$FOLDER/$name.pid" 2>/dev/null) || continue
    [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$name" ] && kill "$pid"
    for tenth in $(seq 100); do
        [ -d "/proc/$pid" ] || break
        sleep 0.1
    done
done
[ "$(readlink /etc/slurm/slurm.conf)" = "$FOLDER/slurm.conf" ] && rm /etc/slurm/slurm.conf
exit 0
