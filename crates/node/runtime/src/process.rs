//! A process of the configuration, prepared so that the child has nothing left to compute.

use std::ffi::CString;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use berth_sys::attributes::Scheduling;
use berth_sys::exec::StringArray;
use oci_spec::runtime::{
    Capabilities, Capability, IOPriorityClass, LinuxIOPriority, LinuxSchedulerFlag,
    LinuxSchedulerPolicy, PosixRlimitType, Process, Scheduler,
};
use rustix::process::{Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::labels::{LabelError, Labels};
use crate::seccomp::Program;
use crate::user::{self, UserError};

/// Why a process cannot be prepared.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// Nothing to run.
    #[error("there is no command to run: the image has neither ENTRYPOINT nor CMD")]
    NoCommand,
    /// A text with a zero byte.
    #[error("`{0}` holds a zero byte")]
    ZeroByte(String),
    /// A level of input and output beyond 0 to 7.
    #[error("`{0}` is no priority of input and output: 0 to 7")]
    IoPriority(i64),
    /// A label of a security module.
    #[error(transparent)]
    Label(#[from] LabelError),
    /// The user or group.
    #[error(transparent)]
    User(#[from] UserError),
}

/// Everything between the clone and `execve` that concerns the process itself.
#[derive(Debug)]
pub struct PreparedProcess {
    pub args: StringArray,
    pub env: StringArray,
    /// Paths to try, in the order of `PATH`.
    pub candidates: Vec<CString>,
    pub directory: CString,
    pub directory_parents: Vec<CString>,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub umask: u32,
    pub capabilities: CapabilitySets,
    pub bounding: CapabilitySet,
    pub ambient: CapabilitySet,
    pub no_new_privileges: bool,
    pub seccomp: Option<Program>,
    pub limits: Vec<(Resource, Rlimit)>,
    pub out_of_memory_score: Option<i32>,
    pub scheduling: Option<Scheduling>,
    /// What security modules know it by.
    pub labels: Labels,
    /// Class and level in one.
    pub io_priority: Option<i32>,
}

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl PreparedProcess {
    /// Prepares `process` for a container whose root filesystem is behind `root`. `user`, where given, is a name or
    /// number of the image and stands above the ids of the process. The additional groups of the process are added in any
    /// case, and so are those the image has for its `username`.
    pub fn new(
        process: &Process,
        root: BorrowedFd<'_>,
        user: Option<&str>,
        seccomp: Option<Program>,
    ) -> Result<Self, ProcessError> {
        let args: Vec<CString> =
            process.args().iter().flatten().map(|text| c_string(text)).collect::<Result<_, _>>()?;
        let program = args.first().ok_or(ProcessError::NoCommand)?.clone();
        let mut env: Vec<String> = process.env().clone().unwrap_or_default();
        let (uid, gid, groups, home) = match user {
            Some(user) => {
                let account = user::resolve(root, user)?;
                (account.uid, account.gid, account.groups, account.home)
            }
            None => {
                let ids = process.user();
                (ids.uid(), ids.gid(), Vec::new(), user::home(root, ids.uid())?)
            }
        };
        let mut groups: Vec<u32> = groups;
        groups.extend(process.user().additional_gids().iter().flatten());
        if let Some(name) = process.user().username() {
            groups.extend(user::groups_of(root, name)?);
        }
        groups.sort_unstable();
        groups.dedup();
        if !env.iter().any(|entry| entry.starts_with("HOME=")) {
            env.push(format!("HOME={home}"));
        }
        let path = env.iter().rev().find_map(|entry| entry.strip_prefix("PATH="));
        let candidates = candidates(&program, path.unwrap_or(DEFAULT_PATH));
        let env = env.iter().map(|text| c_string(text)).collect::<Result<_, _>>()?;
        let directory =
            if process.cwd().as_os_str().is_empty() { Path::new("/") } else { process.cwd() };
        let mut directory_parents: Vec<CString> = directory
            .ancestors()
            .filter(|path| *path != Path::new("/"))
            .map(|path| c_string(&path.to_string_lossy()))
            .collect::<Result<_, _>>()?;
        directory_parents.reverse();
        let sets = process.capabilities();
        let set = |select: fn(&oci_spec::runtime::LinuxCapabilities) -> &Option<Capabilities>| {
            sets.as_ref()
                .and_then(|sets| select(sets).as_ref())
                .map_or(CapabilitySet::empty(), bits)
        };
        let mut capabilities = CapabilitySets {
            effective: set(|sets| sets.effective()),
            permitted: set(|sets| sets.permitted()),
            inheritable: set(|sets| sets.inheritable()),
        };
        let ambient = set(|sets| sets.ambient());
        if uid != 0 {
            // As after any change from root to another user, only ambient capabilities survive.
            capabilities.effective = ambient;
            capabilities.permitted = ambient | capabilities.inheritable & ambient;
        }
        Ok(Self {
            args: StringArray::new(args),
            env: StringArray::new(env),
            candidates,
            directory: c_string(&directory.to_string_lossy())?,
            directory_parents,
            uid,
            gid,
            groups,
            umask: process.user().umask().unwrap_or(0o022),
            capabilities,
            bounding: set(|sets| sets.bounding()),
            ambient,
            no_new_privileges: process.no_new_privileges().unwrap_or(false),
            seccomp,
            labels: Labels::new(process)?,
            limits: process.rlimits().iter().flatten().map(limit).collect(),
            out_of_memory_score: process.oom_score_adj(),
            scheduling: process.scheduler().as_ref().map(scheduling),
            io_priority: process.io_priority().as_ref().map(io_priority).transpose()?,
        })
    }
}

fn c_string(text: &str) -> Result<CString, ProcessError> {
    CString::new(text).map_err(|_| ProcessError::ZeroByte(text.to_owned()))
}

fn candidates(program: &CString, path: &str) -> Vec<CString> {
    if program.as_bytes().contains(&b'/') {
        return vec![program.clone()];
    }
    path.split(':')
        .map(|directory| if directory.is_empty() { "." } else { directory })
        .filter_map(|directory| {
            let mut full = directory.as_bytes().to_vec();
            full.push(b'/');
            full.extend_from_slice(std::ffi::OsStr::from_bytes(program.as_bytes()).as_bytes());
            CString::new(full).ok()
        })
        .collect()
}

fn limit(limit: &oci_spec::runtime::PosixRlimit) -> (Resource, Rlimit) {
    let resource = match limit.typ() {
        PosixRlimitType::RlimitCpu => Resource::Cpu,
        PosixRlimitType::RlimitFsize => Resource::Fsize,
        PosixRlimitType::RlimitData => Resource::Data,
        PosixRlimitType::RlimitStack => Resource::Stack,
        PosixRlimitType::RlimitCore => Resource::Core,
        PosixRlimitType::RlimitRss => Resource::Rss,
        PosixRlimitType::RlimitNproc => Resource::Nproc,
        PosixRlimitType::RlimitNofile => Resource::Nofile,
        PosixRlimitType::RlimitMemlock => Resource::Memlock,
        PosixRlimitType::RlimitAs => Resource::As,
        PosixRlimitType::RlimitLocks => Resource::Locks,
        PosixRlimitType::RlimitSigpending => Resource::Sigpending,
        PosixRlimitType::RlimitMsgqueue => Resource::Msgqueue,
        PosixRlimitType::RlimitNice => Resource::Nice,
        PosixRlimitType::RlimitRtprio => Resource::Rtprio,
        PosixRlimitType::RlimitRttime => Resource::Rttime,
    };
    let finite = |value: u64| (value != u64::MAX).then_some(value);
    (resource, Rlimit { current: finite(limit.soft()), maximum: finite(limit.hard()) })
}

/// The kernel's numbers, from `linux/sched.h`.
fn scheduling(scheduler: &Scheduler) -> Scheduling {
    let policy = match scheduler.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let flag = |flag: &LinuxSchedulerFlag| match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    };
    Scheduling {
        policy,
        flags: scheduler.flags().iter().flatten().map(flag).fold(0, |all, flag| all | flag),
        nice: scheduler.nice().unwrap_or(0),
        priority: scheduler.priority().unwrap_or(0).max(0).unsigned_abs(),
        runtime: scheduler.runtime().unwrap_or(0),
        deadline: scheduler.deadline().unwrap_or(0),
        period: scheduler.period().unwrap_or(0),
    }
}

fn io_priority(asked: &LinuxIOPriority) -> Result<i32, ProcessError> {
    let class = match asked.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    let level = i32::try_from(asked.priority()).ok().filter(|level| (0..8).contains(level));
    Ok(class << 13 | level.ok_or_else(|| ProcessError::IoPriority(asked.priority()))?)
}

/// Numbers of `linux/capability.h`, by name.
const CAPABILITIES: [(Capability, u32); 41] = [
    (Capability::Chown, 0),
    (Capability::DacOverride, 1),
    (Capability::DacReadSearch, 2),
    (Capability::Fowner, 3),
    (Capability::Fsetid, 4),
    (Capability::Kill, 5),
    (Capability::Setgid, 6),
    (Capability::Setuid, 7),
    (Capability::Setpcap, 8),
    (Capability::LinuxImmutable, 9),
    (Capability::NetBindService, 10),
    (Capability::NetBroadcast, 11),
    (Capability::NetAdmin, 12),
    (Capability::NetRaw, 13),
    (Capability::IpcLock, 14),
    (Capability::IpcOwner, 15),
    (Capability::SysModule, 16),
    (Capability::SysRawio, 17),
    (Capability::SysChroot, 18),
    (Capability::SysPtrace, 19),
    (Capability::SysPacct, 20),
    (Capability::SysAdmin, 21),
    (Capability::SysBoot, 22),
    (Capability::SysNice, 23),
    (Capability::SysResource, 24),
    (Capability::SysTime, 25),
    (Capability::SysTtyConfig, 26),
    (Capability::Mknod, 27),
    (Capability::Lease, 28),
    (Capability::AuditWrite, 29),
    (Capability::AuditControl, 30),
    (Capability::Setfcap, 31),
    (Capability::MacOverride, 32),
    (Capability::MacAdmin, 33),
    (Capability::Syslog, 34),
    (Capability::WakeAlarm, 35),
    (Capability::BlockSuspend, 36),
    (Capability::AuditRead, 37),
    (Capability::Perfmon, 38),
    (Capability::Bpf, 39),
    (Capability::CheckpointRestore, 40),
];

/// The capabilities that are known, by their names as configurations have them, and their numbers.
pub fn capabilities() -> impl Iterator<Item = (String, u32)> {
    CAPABILITIES.iter().map(|(capability, number)| (format!("CAP_{capability}"), *number))
}

fn bits(capabilities: &Capabilities) -> CapabilitySet {
    let bits = CAPABILITIES
        .iter()
        .filter(|(capability, _)| capabilities.contains(capability))
        .fold(0, |bits, (_, number)| bits | 1_u64 << number);
    CapabilitySet::from_bits_retain(bits)
}
