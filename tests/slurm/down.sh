#!/usr/bin/env bash
# Ends what up.sh started, by its process ids, and takes its links out of /etc/slurm.
set -uo pipefail

dir=$(realpath -m "${1:?usage: down.sh DIR}")
# without it the commands would find a real cluster, whose jobs are none of ours
[ -e "$dir/env.sh" ] || exit 0
. "$dir/env.sh"
timeout 20 scancel --user="$(id -un)" 2>/dev/null
# slurmd ends a job's processes; without it they would live on
for _ in $(seq 75); do [ -n "$(timeout 10 squeue --noheader 2>/dev/null)" ] || break; sleep 0.2; done
for program in slurmd slurmctld munged; do
  pid=$(cat "$dir/pid/$program" 2>/dev/null) || continue
  # the number may be another process's by now
  [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$program" ] || continue
  kill "$pid"
  for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.2; done
  kill -KILL "$pid" 2>/dev/null
done
for file in slurm.conf gres.conf cgroup.conf; do
  [ "$(readlink "/etc/slurm/$file")" = "$dir/$file" ] && rm "/etc/slurm/$file"
done
exit 0
