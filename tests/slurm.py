"""A SLURM cluster of one node with four GPUs that are none, started for a test as whoever runs it, without systemd.

slurmctld, slurmd and munged are real (Debian's slurm-wlm and munge), children of the test's process: they end with it,
however it ends.
"""

import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

GPUS = ("null", "zero", "full", "random")  # of /dev: what SLURM hands out as GPUs 0 to 3
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
CONF = """
ClusterName=sandbox
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
InactiveLimit=0
KillWait=5
OverTimeLimit=0
MinJobAge=600
ReturnToService=2
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 CoresPerSocket=8 RealMemory=64000 Gres=gpu:fake:4 State=UNKNOWN
PartitionName=gpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
SRUN = """#!/bin/sh
# The jobs' inner Snakemake strips SLURM_* before it calls srun, SLURM_CONF too: on a real cluster nobody needs it.
SLURM_CONF={folder}/slurm.conf; export SLURM_CONF
exec {srun} "$@"
"""


class Cluster:
    """Starts with `with`; `.environment` is what a command needs to use it."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.environment = {
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "PATH": os.pathsep.join([str(self.folder / "bin"), PATH]),
        }
        self._daemons = []

    def __enter__(self):
        try:
            self._configure()
            files = [f"--{name}={self.folder}/munge.{end}" for name, end in (("key-file", "key"), ("socket", "sock"))]
            files += [f"--{name}-file={self.folder}/munge.{name}" for name in ("pid", "log", "seed")]
            # --force: as root, and in a temporary folder that only its owner can reach
            self._start("munged", "--foreground", "--force", *files, "--num-threads=2")
            self._until(lambda: (self.folder / "munge.sock").exists(), "munged")
            self._start("slurmctld", "-D", "-c")
            self._until(lambda: "UP" in self.say("scontrol", "ping"), "slurmctld")
            self._start("slurmd", "-D", "-c")
            self._until(lambda: "idle" in self.say("sinfo", "-h", "-o", "%T"), "slurmd")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error):
        if len(self._daemons) == 3:
            self.say("scancel", "--user", str(os.getuid()))
            self._until(lambda: not self.queue(), "the end of its jobs", fatal=False)
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in reversed(self._daemons):
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def say(self, *words):
        """What a SLURM command prints; nothing where it fails."""
        given = os.environ | self.environment
        return subprocess.run(words, env=given, capture_output=True, text=True, timeout=60, check=False).stdout

    def queue(self):
        """(job id, state) of the jobs that wait, run or end."""
        return [tuple(line.split("|")) for line in self.say("squeue", "-h", "-o", "%i|%T").split()]

    def states(self):
        """The state of every job so far, in the order of submission."""
        lines = self.say("squeue", "-h", "--states=all", "--sort=i", "-o", "%T")
        return lines.split()

    def _configure(self):
        for name in ("state", "spool", "bin"):
            (self.folder / name).mkdir(parents=True)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        user, host = pwd.getpwuid(os.getuid()).pw_name, socket.gethostname().split(".")[0]
        conf = CONF.format(folder=self.folder, user=user, host=host, ports=free_ports(2))
        (self.folder / "slurm.conf").write_text(conf)
        devices = [f"Name=gpu Type=fake File=/dev/{name}" for name in GPUS]
        (self.folder / "gres.conf").write_text("\n".join(["AutoDetect=off", *devices, ""]))
        srun = self.folder / "bin" / "srun"
        srun.write_text(SRUN.format(folder=self.folder, srun=shutil.which("srun")))
        srun.chmod(0o755)

    def _start(self, name, *words):
        log = (self.folder / f"{name}.out").open("w")
        given = os.environ | self.environment
        command = [shutil.which(name, path=PATH), *words]
        ends = {"preexec_fn": _end_with_parent, "start_new_session": True}
        self._daemons.append(
            subprocess.Popen(command, env=given, stdout=log, stderr=log, stdin=subprocess.DEVNULL, **ends)
        )
        log.close()

    def _until(self, done, what, seconds=30, fatal=True):
        deadline = time.monotonic() + seconds
        while not done():
            if time.monotonic() > deadline or any(daemon.poll() is not None for daemon in self._daemons):
                if not fatal:
                    return
                logs = [path.read_text()[-2000:] for path in sorted(self.folder.glob("*.out"))]
                raise RuntimeError(f"SLURM did not start: no {what}\n" + "\n".join(logs))
            time.sleep(0.1)


def free_ports(count):
    """Ports of this machine that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _end_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG; munged may take its time over SIGTERM
