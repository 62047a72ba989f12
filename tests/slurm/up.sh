#!/usr/bin/env bash
# A SLURM of one node with pretend GPUs, for tests: munged, slurmctld and slurmd as plain processes on the
# loopback interface. Nothing is installed; the packages are named where they are missing.
#   tests/slurm/up.sh DIR && . DIR/env.sh        then squeue, sbatch, snakemake
#   tests/slurm/down.sh DIR
# Sizes the node pretends to have: CPUS (16), MEM_MB (256000), GPUS (4); PORT (17817): it and the next are used.
set -euo pipefail

dir=$(realpath -m "${1:?usage: up.sh DIR}")
cpus=${CPUS:-16} memory=${MEM_MB:-256000} gpus=${GPUS:-4} port=${PORT:-17817}

fail() { echo "up.sh: $*" >&2; exit 1; }

export PATH=$PATH:/usr/sbin:/sbin
for program in munged slurmctld slurmd sbatch; do
  command -v "$program" >/dev/null \
    || fail "$program is not installed: apt-get install --no-install-recommends munge slurmctld slurmd slurm-client"
done
[ "$(id -u)" = 0 ] || fail "root is needed: slurmd starts jobs for other users"
# Snakemake's step executor forgets SLURM_CONF, so its srun looks at the compiled-in place.
conf=/etc/slurm
for file in slurm.conf gres.conf cgroup.conf; do
  [ ! -e "$conf/$file" ] || [ "$(readlink "$conf/$file")" = "$dir/$file" ] \
    || fail "$conf/$file belongs to a real cluster, or to one of another folder; it is left alone"
done

[ ! -e "$dir" ] || [ -e "$dir/slurm.conf" ] || fail "$dir is there already, and is no folder of this script"
rm -rf "$dir"
install -d -m 755 "$dir" "$dir"/{log,pid,state,spool,gpu}
install -d -m 711 "$dir/munge"
host=$(hostname -s)
(umask 077 && head -c 1024 /dev/urandom >"$dir/munge/key")

# A GPU is counted by its device file. mknod makes harmless ones (each a /dev/null); where that is not permitted,
# devices that every machine has stand in for them.
devices=()
for number in $(seq 0 $((gpus - 1))); do
  mknod -m 666 "$dir/gpu/nvidia$number" c 1 3 2>/dev/null && devices+=("$dir/gpu/nvidia$number")
done
if [ "${#devices[@]}" -lt "$gpus" ]; then
  spare=(/dev/null /dev/zero /dev/full /dev/random)
  [ "$gpus" -le "${#spare[@]}" ] || fail "no more than ${#spare[@]} GPUs without the right to mknod"
  devices=("${spare[@]:0:gpus}")
fi

cat >"$dir/gres.conf" <<END
NodeName=$host Name=gpu Type=pretend File=$(IFS=,; echo "${devices[*]}")
END
echo 'CgroupAutomount=no' >"$dir/cgroup.conf"
cat >"$dir/slurm.conf" <<END
ClusterName=tests
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# a requeued job waits until its credential has expired: seconds instead of minutes
AuthInfo=socket=$dir/munge/socket,cred_expire=5
SlurmctldPidFile=$dir/pid/slurmctld
SlurmdPidFile=$dir/pid/slurmd
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.log
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
# the node may say that it has more than the machine
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
GresTypes=gpu
SchedulerParameters=batch_sched_delay=0,sched_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
# tests ask for ended jobs; without an accounting database slurmctld must remember them
MinJobAge=7200
KillWait=5
MailProg=/bin/true
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$memory Gres=gpu:pretend:$gpus State=UNKNOWN
PartitionName=cpu Nodes=$host Default=YES MaxTime=7-0 DefMemPerCPU=100 PriorityTier=5
PartitionName=gpu Nodes=$host MaxTime=7-0 DefMemPerCPU=100 PriorityTier=5
PartitionName=preemptible Nodes=$host MaxTime=7-0 DefMemPerCPU=100 PriorityTier=1 PreemptMode=REQUEUE
PartitionName=scavenged Nodes=$host MaxTime=7-0 DefMemPerCPU=100 PriorityTier=1 PreemptMode=CANCEL
END
cat >"$dir/env.sh" <<END
export SLURM_CONF=$dir/slurm.conf PATH=\$PATH:/usr/sbin:/sbin
END
. "$dir/env.sh"
mkdir -p "$conf"
for file in slurm.conf gres.conf cgroup.conf; do ln -sfn "$dir/$file" "$conf/$file"; done

# wait_for SECONDS COMMAND…: until it succeeds
wait_for() {
  local end=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do [ "$SECONDS" -lt "$end" ] || return 1; sleep 0.2; done
}
is_up() { timeout 10 scontrol ping | grep -q 'is UP'; }
is_idle() { timeout 10 sinfo --noheader --format %T | grep -qx idle; }

munged --force --socket="$dir/munge/socket" --key-file="$dir/munge/key" --pid-file="$dir/pid/munged" \
  --log-file="$dir/log/munged.log" --seed-file="$dir/munge/seed"
wait_for 30 munge --socket="$dir/munge/socket" --no-input || fail "munged does not answer: $dir/log/munged.log"
slurmctld -i -f "$dir/slurm.conf"
wait_for 60 is_up || fail "slurmctld does not answer: $(tail -n 3 "$dir/log/slurmctld.log")"
slurmd -f "$dir/slurm.conf" -N "$host"
wait_for 60 is_idle || fail "the node does not become idle: $(tail -n 3 "$dir/log/slurmd.log")"
echo "SLURM is up: . $dir/env.sh"
