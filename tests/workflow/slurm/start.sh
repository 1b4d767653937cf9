#!/bin/sh
# Start a SLURM of one machine for the tests: slurmctld and slurmd, without systemd, munge or accounting.
#
#   tests/workflow/slurm/start.sh FOLDER     keeps its state, logs and configuration in FOLDER
#
# Installs Debian's packages where they are missing. Exits with 77, and says why, where it cannot run: it needs root,
# and a /etc/slurm/slurm.conf that nobody else has made. Two GPUs are advertised that do not exist, so that requests for
# them are scheduled. End it with stop.sh FOLDER.
set -eu

FOLDER=$1
skip() { echo "slurm: $*"; exit 77; }

[ "$(id -u)" = 0 ] || skip "must be root to start slurmctld and slurmd"
[ ! -e /etc/slurm/slurm.conf ] && [ ! -L /etc/slurm/slurm.conf ] || skip "/etc/slurm/slurm.conf exists; it is not ours"
for program in slurmctld slurmd sbatch; do
    command -v "$program" >/dev/null && continue
    command -v apt-get >/dev/null || skip "$program is not installed, and there is no apt-get"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq >/dev/null 2>&1 || skip "apt-get update failed"
    apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client slurm-wlm-basic-plugins \
        >/dev/null 2>&1 || skip "apt-get install of SLURM failed"
    break
done

mkdir -p "$FOLDER/state" "$FOLDER/spool" /etc/slurm
HOST=$(hostname -s)
MEMORY=$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
cat > "$FOLDER/slurm.conf" <<END
ClusterName=altq-tests
SlurmctldHost=$HOST(127.0.0.1)
SlurmctldPort=26817
SlurmdPort=26818
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
StateSaveLocation=$FOLDER/state
SlurmdSpoolDir=$FOLDER/spool
SlurmctldPidFile=$FOLDER/slurmctld.pid
SlurmdPidFile=$FOLDER/slurmd.pid
SlurmctldLogFile=$FOLDER/slurmctld.log
SlurmdLogFile=$FOLDER/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=2
SlurmdParameters=config_overrides
ReturnToService=2
MinJobAge=3600
KillWait=5
AccountingStorageType=accounting_storage/none
GresTypes=gpu
NodeName=$HOST NodeAddr=127.0.0.1 CPUs=4 RealMemory=$MEMORY Gres=gpu:h100:2 State=UNKNOWN
PartitionName=main Nodes=$HOST Default=YES MaxTime=2:00:00 State=UP
END
# A GPU has to be a character device; these two are never opened.
for device in /dev/null /dev/zero; do echo "NodeName=$HOST Name=gpu Type=h100 File=$device"; done > "$FOLDER/gres.conf"
printf 'CgroupAutomount=no\nConstrainCores=no\nConstrainRAMSpace=no\n' > "$FOLDER/cgroup.conf"
# A job's inner srun finds its configuration at this place alone.
ln -s "$FOLDER/slurm.conf" /etc/slurm/slurm.conf

SLURM_CONF=$FOLDER/slurm.conf
export SLURM_CONF
slurmctld </dev/null >>"$FOLDER/out" 2>&1
slurmd -N "$HOST" </dev/null >>"$FOLDER/out" 2>&1
for second in $(seq 60); do
    timeout 5 sinfo -h -o %t 2>/dev/null | grep -qE '^(idle|mix|alloc)$' && { echo "slurm: ready"; exit 0; }
    sleep 1
done
tail -n 20 "$FOLDER/out" "$FOLDER"/slurm*.log
"$(dirname "$0")/stop.sh" "$FOLDER"
echo "slurm: the node did not come up"
exit 1
