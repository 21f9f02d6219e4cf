//! Seccomp profiles compiled to a search tree.
//!
//! A list of 350 comparisons costs every system call of the container up to 350 instructions. The numbers are merged into
//! ranges with the same answer and searched as a balanced tree instead: about seven comparisons a call.

mod table;
mod table_x86;

use std::collections::BTreeMap;

use berth_sys::seccomp::Instruction;
use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag,
    LinuxSeccompOperator,
};

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

const NUMBER_OFFSET: u32 = 0;
const ARCHITECTURE_OFFSET: u32 = 4;
const ARGUMENTS_OFFSET: u32 = 16;
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
const AUDIT_ARCH_I386: u32 = 0x4000_0003;
/// Calls of the x32 ABI carry this bit; no profile lists them.
const X32_BIT: u32 = 0x4000_0000;
const CLONE_NAMESPACES: u64 = 0x7e02_0000;

/// Why a profile cannot be compiled.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// An error code for an action that returns none.
    #[error("seccomp action `{0:?}` returns no error code")]
    NoErrno(LinuxSeccompAction),
    /// An entry without a system call.
    #[error("an entry of the seccomp profile names no system call")]
    NoName,
    /// Words for a listener that nobody named.
    #[error("the seccomp profile has metadata for a listener, and no listener")]
    MetadataAlone,
    /// Calls to ask about, and nobody to ask.
    #[error("the seccomp profile asks about calls, and names no listener")]
    NoListener,
    /// The listener is handed over by a call that would have to wait for it.
    #[error("the seccomp profile asks about `sendmsg`, by which the listener is handed over")]
    AsksTooEarly,
    /// An argument index beyond the six of a system call.
    #[error("seccomp rule for `{name}` looks at argument {index}, a system call has six")]
    Argument {
        /// The system call.
        name: String,
        /// The index given.
        index: usize,
    },
    /// The kernel takes at most 4096 instructions.
    #[error("the seccomp profile compiles to {0} instructions, the kernel takes at most 4096")]
    TooLong(usize),
}

/// A compiled filter, ready for the kernel.
#[derive(Debug, Clone)]
pub struct Program {
    code: Vec<Instruction>,
    flags: u64,
}

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Answer(u32);

impl Answer {
    const ALLOW: Self = Self(libc::SECCOMP_RET_ALLOW);
    const ASK: Self = Self(libc::SECCOMP_RET_USER_NOTIF);
    const fn errno(errno: u32) -> Self {
        Self(libc::SECCOMP_RET_ERRNO | (errno & 0xffff))
    }
    const NO_SUCH_CALL: Self = Self::errno(libc::ENOSYS.unsigned_abs());
    const FORBIDDEN: Self = Self::errno(libc::EPERM.unsigned_abs());
}

/// One conditional answer: all comparisons must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    comparisons: Vec<Comparison>,
    answer: Answer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Comparison {
    index: u32,
    operator: Operator,
    value: u64,
    mask: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    MaskedEqual,
}

/// The rules of one call, tried in order, and the answer when none holds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Leaf {
    rules: Vec<Rule>,
    otherwise: Answer,
}

impl Leaf {
    fn always(answer: Answer) -> Self {
        Self { rules: Vec::new(), otherwise: answer }
    }
}

/// Calls that reach beyond a container. Each is allowed again with the capability beside it; `None` means never.
const PRIVILEGED: &[(&str, Option<Capability>)] = &[
    ("acct", Some(Capability::SysPacct)),
    ("add_key", None),
    ("adjtimex", Some(Capability::SysTime)),
    ("bpf", Some(Capability::SysAdmin)),
    ("clock_adjtime", Some(Capability::SysTime)),
    ("clock_settime", Some(Capability::SysTime)),
    ("clone3", Some(Capability::SysAdmin)),
    ("create_module", None),
    ("delete_module", Some(Capability::SysModule)),
    ("fanotify_init", Some(Capability::SysAdmin)),
    ("finit_module", Some(Capability::SysModule)),
    ("fsconfig", Some(Capability::SysAdmin)),
    ("fsmount", Some(Capability::SysAdmin)),
    ("fsopen", Some(Capability::SysAdmin)),
    ("fspick", Some(Capability::SysAdmin)),
    ("get_kernel_syms", None),
    ("init_module", Some(Capability::SysModule)),
    ("io_uring_enter", None),
    ("io_uring_register", None),
    ("io_uring_setup", None),
    ("ioperm", Some(Capability::SysRawio)),
    ("iopl", Some(Capability::SysRawio)),
    ("kcmp", Some(Capability::SysPtrace)),
    ("kexec_file_load", None),
    ("kexec_load", None),
    ("keyctl", None),
    ("listmount", Some(Capability::SysAdmin)),
    ("lookup_dcookie", None),
    ("mount", Some(Capability::SysAdmin)),
    ("mount_setattr", Some(Capability::SysAdmin)),
    ("move_mount", Some(Capability::SysAdmin)),
    ("move_pages", Some(Capability::SysNice)),
    ("nfsservctl", None),
    ("open_by_handle_at", Some(Capability::DacReadSearch)),
    ("open_tree", Some(Capability::SysAdmin)),
    ("open_tree_attr", Some(Capability::SysAdmin)),
    ("perf_event_open", Some(Capability::Perfmon)),
    ("pivot_root", Some(Capability::SysAdmin)),
    ("query_module", None),
    ("quotactl", Some(Capability::SysAdmin)),
    ("quotactl_fd", Some(Capability::SysAdmin)),
    ("reboot", Some(Capability::SysBoot)),
    ("request_key", None),
    ("setdomainname", Some(Capability::SysAdmin)),
    ("sethostname", Some(Capability::SysAdmin)),
    ("setns", Some(Capability::SysAdmin)),
    ("settimeofday", Some(Capability::SysTime)),
    ("statmount", Some(Capability::SysAdmin)),
    ("swapoff", None),
    ("swapon", None),
    ("_sysctl", None),
    ("sysfs", None),
    ("syslog", Some(Capability::Syslog)),
    ("umount2", Some(Capability::SysAdmin)),
    ("unshare", Some(Capability::SysAdmin)),
    ("uselib", None),
    ("userfaultfd", None),
    ("ustat", None),
    ("vhangup", Some(Capability::SysTtyConfig)),
];

impl Program {
    /// The default profile of a pod: every known call but those that reach beyond a container, which need the
    /// capability that governs them.
    ///
    /// # Panics
    /// Never: the profile is a constant that compiles.
    #[must_use]
    pub fn runtime_default(capabilities: &[Capability]) -> Self {
        let mut leaves: BTreeMap<u32, Leaf> =
            table::SYSCALLS.iter().map(|(_, n)| (*n, Leaf::always(Answer::ALLOW))).collect();
        for (name, capability) in PRIVILEGED {
            let granted = capability.is_some_and(|needed| capabilities.contains(&needed));
            let Some(number) = number(table::SYSCALLS, name).filter(|_| !granted) else { continue };
            // clone3 hides its flags behind a pointer: `ENOSYS` makes the C library fall back to clone.
            let answer = if *name == "clone3" { Answer::NO_SUCH_CALL } else { Answer::FORBIDDEN };
            leaves.insert(number, Leaf::always(answer));
        }
        if !capabilities.contains(&Capability::SysAdmin) {
            let no_namespaces = Comparison {
                index: 0,
                operator: Operator::MaskedEqual,
                value: 0,
                mask: CLONE_NAMESPACES,
            };
            leaves.insert(
                number(table::SYSCALLS, "clone").expect("clone is in the table"),
                Leaf {
                    rules: vec![Rule { comparisons: vec![no_namespaces], answer: Answer::ALLOW }],
                    otherwise: Answer::FORBIDDEN,
                },
            );
        }
        let personalities = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff].map(|value| Rule {
            comparisons: vec![Comparison { index: 0, operator: Operator::Equal, value, mask: 0 }],
            answer: Answer::ALLOW,
        });
        leaves.insert(
            number(table::SYSCALLS, "personality").expect("personality is in the table"),
            Leaf { rules: personalities.to_vec(), otherwise: Answer::FORBIDDEN },
        );
        // Hypervisor sockets would leave the network namespace; the kernel's crypto sockets are attack surface alone.
        let families = [40, 38].map(|value| Rule {
            comparisons: vec![Comparison { index: 0, operator: Operator::Equal, value, mask: 0 }],
            answer: Answer::FORBIDDEN,
        });
        leaves.insert(
            number(table::SYSCALLS, "socket").expect("socket is in the table"),
            Leaf { rules: families.to_vec(), otherwise: Answer::ALLOW },
        );
        compile(&leaves, None, Answer::NO_SUCH_CALL).expect("the default profile compiles")
    }

    /// Compiles a profile of the OCI runtime specification. Names that this architecture lacks are passed over, as the
    /// specification's users expect of a profile written for several architectures. Calls of 32-bit programs are judged by the same rules
    /// if the profile lists their architecture; otherwise the program is killed.
    ///
    /// # Errors
    /// See [`SeccompError`].
    pub fn compile(profile: &LinuxSeccomp) -> Result<Self, SeccompError> {
        let otherwise = answer(profile.default_action(), profile.default_errno_ret())?;
        let native = leaves(profile, otherwise, table::SYSCALLS)?;
        let names = |wanted| profile.architectures().iter().flatten().any(|it| *it == wanted);
        let old = names(Arch::ScmpArchX86)
            .then(|| leaves(profile, otherwise, table_x86::SYSCALLS))
            .transpose()?;
        let mut program = compile(&native, old.as_ref(), otherwise)?;
        program.flags = profile.flags().iter().flatten().map(flag).fold(0, |all, it| all | it);
        if profile.listener_metadata().is_some() && profile.listener_path().is_none() {
            return Err(SeccompError::MetadataAlone);
        }
        let asks = |leaf: &Leaf| {
            leaf.otherwise == Answer::ASK
                || leaf.rules.iter().any(|rule| rule.answer == Answer::ASK)
        };
        if otherwise == Answer::ASK
            || native.values().chain(old.iter().flat_map(BTreeMap::values)).any(asks)
        {
            if profile.listener_path().is_none() {
                return Err(SeccompError::NoListener);
            }
            let sends = number(table::SYSCALLS, "sendmsg").and_then(|it| native.get(&it));
            if sends.map_or(otherwise == Answer::ASK, asks) {
                return Err(SeccompError::AsksTooEarly);
            }
            program.flags |= libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
        }
        Ok(program)
    }

    /// The instructions.
    #[must_use]
    pub fn instructions(&self) -> &[Instruction] {
        &self.code
    }

    /// `SECCOMP_FILTER_FLAG_*` to install it with.
    #[must_use]
    pub fn flags(&self) -> u64 {
        self.flags
    }

    /// Whether it asks somebody about calls.
    #[must_use]
    pub fn asks(&self) -> bool {
        self.flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER != 0
    }
}

type Table = &'static [(&'static str, u32)];

fn leaves(
    profile: &LinuxSeccomp,
    otherwise: Answer,
    table: Table,
) -> Result<BTreeMap<u32, Leaf>, SeccompError> {
    let mut leaves: BTreeMap<u32, Leaf> = BTreeMap::new();
    for entry in profile.syscalls().iter().flatten() {
        let answer = answer(entry.action(), entry.errno_ret())?;
        if entry.names().is_empty() {
            return Err(SeccompError::NoName);
        }
        for name in entry.names() {
            let comparisons: Vec<Comparison> = entry
                .args()
                .iter()
                .flatten()
                .map(|arg| comparison(name, arg))
                .collect::<Result<_, _>>()?;
            let Some(number) = number(table, name) else { continue };
            let leaf = leaves.entry(number).or_insert_with(|| Leaf::always(otherwise));
            if comparisons.is_empty() {
                leaf.otherwise = answer;
            } else {
                leaf.rules.push(Rule { comparisons, answer });
            }
        }
    }
    Ok(leaves)
}

fn number(table: Table, name: &str) -> Option<u32> {
    table.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

fn flag(flag: &LinuxSeccompFilterFlag) -> u64 {
    match flag {
        LinuxSeccompFilterFlag::SeccompFilterFlagTsync => libc::SECCOMP_FILTER_FLAG_TSYNC,
        LinuxSeccompFilterFlag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
        LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
            libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
        }
    }
}

fn answer(action: LinuxSeccompAction, errno: Option<u32>) -> Result<Answer, SeccompError> {
    let code = errno.unwrap_or(libc::EPERM.unsigned_abs());
    let plain = match action {
        LinuxSeccompAction::ScmpActErrno => return Ok(Answer::errno(code)),
        LinuxSeccompAction::ScmpActTrace => {
            return Ok(Answer(libc::SECCOMP_RET_TRACE | (code & 0xffff)));
        }
        LinuxSeccompAction::ScmpActAllow => Answer::ALLOW,
        LinuxSeccompAction::ScmpActLog => Answer(libc::SECCOMP_RET_LOG),
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => {
            Answer(libc::SECCOMP_RET_KILL_THREAD)
        }
        LinuxSeccompAction::ScmpActKillProcess => Answer(libc::SECCOMP_RET_KILL_PROCESS),
        LinuxSeccompAction::ScmpActTrap => Answer(libc::SECCOMP_RET_TRAP),
        LinuxSeccompAction::ScmpActNotify => Answer::ASK,
    };
    if errno.is_some() { Err(SeccompError::NoErrno(action)) } else { Ok(plain) }
}

fn comparison(name: &str, arg: &LinuxSeccompArg) -> Result<Comparison, SeccompError> {
    let index = u32::try_from(arg.index())
        .ok()
        .filter(|index| *index < 6)
        .ok_or_else(|| SeccompError::Argument { name: name.to_owned(), index: arg.index() })?;
    let (operator, value, mask) = match arg.op() {
        LinuxSeccompOperator::ScmpCmpEq => (Operator::Equal, arg.value(), 0),
        LinuxSeccompOperator::ScmpCmpNe => (Operator::NotEqual, arg.value(), 0),
        LinuxSeccompOperator::ScmpCmpLt => (Operator::Less, arg.value(), 0),
        LinuxSeccompOperator::ScmpCmpLe => (Operator::LessEqual, arg.value(), 0),
        LinuxSeccompOperator::ScmpCmpGt => (Operator::Greater, arg.value(), 0),
        LinuxSeccompOperator::ScmpCmpGe => (Operator::GreaterEqual, arg.value(), 0),
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            (Operator::MaskedEqual, arg.value_two().unwrap_or(0), arg.value())
        }
    };
    Ok(Comparison { index, operator, value, mask })
}

/// A statement without jumps.
const fn statement(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}

fn compile(
    native: &BTreeMap<u32, Leaf>,
    old: Option<&BTreeMap<u32, Leaf>>,
    otherwise: Answer,
) -> Result<Program, SeccompError> {
    let kill = statement(RETURN, libc::SECCOMP_RET_KILL_PROCESS);
    let mut foreign = Vec::new();
    if let Some(old) = old {
        foreign.push(Instruction { code: JUMP_EQUAL, jt: 1, jf: 0, k: AUDIT_ARCH_I386 });
        foreign.push(kill);
        foreign.push(statement(LOAD, NUMBER_OFFSET));
        foreign.extend(tree(&ranges(old, otherwise))?);
    } else {
        foreign.push(kill);
    }
    let skip = u32::try_from(foreign.len()).map_err(|_| SeccompError::TooLong(foreign.len()))?;
    let mut code = vec![
        statement(LOAD, ARCHITECTURE_OFFSET),
        Instruction { code: JUMP_EQUAL, jt: 0, jf: 1, k: AUDIT_ARCH_X86_64 },
        statement(JUMP, skip),
    ];
    code.extend(foreign);
    code.push(statement(LOAD, NUMBER_OFFSET));
    let mut known = ranges(native, otherwise);
    extend(&mut known, X32_BIT, Leaf::always(Answer::NO_SUCH_CALL));
    code.extend(tree(&known)?);
    if code.len() > 4096 {
        return Err(SeccompError::TooLong(code.len()));
    }
    Ok(Program { code, flags: 0 })
}

/// From each number on its leaf, until the next entry.
fn ranges(leaves: &BTreeMap<u32, Leaf>, otherwise: Answer) -> Vec<(u32, Leaf)> {
    let mut ranges: Vec<(u32, Leaf)> = vec![(0, Leaf::always(otherwise))];
    let mut next = 0;
    for (number, leaf) in leaves {
        if *number > next {
            extend(&mut ranges, next, Leaf::always(otherwise));
        }
        extend(&mut ranges, *number, leaf.clone());
        next = number + 1;
    }
    extend(&mut ranges, next, Leaf::always(otherwise));
    ranges
}

fn extend(ranges: &mut Vec<(u32, Leaf)>, from: u32, leaf: Leaf) {
    match ranges.last_mut() {
        Some(last) if last.1 == leaf => {}
        Some(last) if last.0 == from => last.1 = leaf,
        _ => ranges.push((from, leaf)),
    }
}

fn tree(ranges: &[(u32, Leaf)]) -> Result<Vec<Instruction>, SeccompError> {
    if let [(_, leaf)] = ranges {
        return Ok(leaf_code(leaf));
    }
    let (left, right) = ranges.split_at(ranges.len() / 2);
    let left_code = tree(left)?;
    let skip =
        u32::try_from(left_code.len()).map_err(|_| SeccompError::TooLong(left_code.len()))?;
    let mut code = vec![
        Instruction { code: JUMP_GREATER_EQUAL, jt: 0, jf: 1, k: right[0].0 },
        statement(JUMP, skip),
    ];
    code.extend(left_code);
    code.extend(tree(right)?);
    Ok(code)
}

fn leaf_code(leaf: &Leaf) -> Vec<Instruction> {
    let mut code = Vec::new();
    for rule in &leaf.rules {
        let mut blocks: Vec<Vec<Instruction>> =
            rule.comparisons.iter().map(comparison_code).collect();
        blocks.push(vec![statement(RETURN, rule.answer.0)]);
        // A comparison that fails jumps behind the rule: from the end of each block, over all that follow it.
        let mut rule_code: Vec<Instruction> = Vec::new();
        let mut behind = 0;
        for block in blocks.into_iter().rev() {
            let mut block = block;
            for (at, instruction) in block.clone().iter().enumerate() {
                let rest = u8::try_from(block.len() - 1 - at).unwrap_or(u8::MAX);
                if instruction.jt == FAIL {
                    block[at].jt = rest.saturating_add(behind);
                }
                if instruction.jf == FAIL {
                    block[at].jf = rest.saturating_add(behind);
                }
                if instruction.jt == HOLD {
                    block[at].jt = rest;
                }
                if instruction.jf == HOLD {
                    block[at].jf = rest;
                }
            }
            behind = behind.saturating_add(u8::try_from(block.len()).unwrap_or(u8::MAX));
            block.extend(rule_code);
            rule_code = block;
        }
        code.extend(rule_code);
    }
    code.push(statement(RETURN, leaf.otherwise.0));
    code
}

/// Jump targets that are filled in once the rule is laid out: behind the rule, and to the end of the block.
const FAIL: u8 = 0xff;
const HOLD: u8 = 0xfe;

/// 64-bit comparison in 32-bit halves; little-endian, so the low half comes first.
fn comparison_code(comparison: &Comparison) -> Vec<Instruction> {
    let low = ARGUMENTS_OFFSET + comparison.index * 8;
    let (value_low, value_high) = halves(comparison.value);
    let jump = |code, k, jt, jf| Instruction { code, jt, jf, k };
    let load_high = statement(LOAD, low + 4);
    let load_low = statement(LOAD, low);
    match comparison.operator {
        Operator::Equal => vec![
            load_high,
            jump(JUMP_EQUAL, value_high, 0, FAIL),
            load_low,
            jump(JUMP_EQUAL, value_low, HOLD, FAIL),
        ],
        Operator::NotEqual => vec![
            load_high,
            jump(JUMP_EQUAL, value_high, 0, HOLD),
            load_low,
            jump(JUMP_EQUAL, value_low, FAIL, HOLD),
        ],
        Operator::Greater | Operator::GreaterEqual => vec![
            load_high,
            jump(JUMP_GREATER, value_high, HOLD, 0),
            jump(JUMP_EQUAL, value_high, 0, FAIL),
            load_low,
            if comparison.operator == Operator::Greater {
                jump(JUMP_GREATER, value_low, HOLD, FAIL)
            } else {
                jump(JUMP_GREATER_EQUAL, value_low, HOLD, FAIL)
            },
        ],
        Operator::Less | Operator::LessEqual => vec![
            load_high,
            jump(JUMP_GREATER, value_high, FAIL, 0),
            jump(JUMP_EQUAL, value_high, 0, HOLD),
            load_low,
            if comparison.operator == Operator::Less {
                jump(JUMP_GREATER_EQUAL, value_low, FAIL, HOLD)
            } else {
                jump(JUMP_GREATER, value_low, FAIL, HOLD)
            },
        ],
        Operator::MaskedEqual => {
            let (mask_low, mask_high) = halves(comparison.mask);
            vec![
                load_high,
                statement(AND, mask_high),
                jump(JUMP_EQUAL, value_high, 0, FAIL),
                load_low,
                statement(AND, mask_low),
                jump(JUMP_EQUAL, value_low, HOLD, FAIL),
            ]
        }
    }
}

fn halves(value: u64) -> (u32, u32) {
    let bytes = value.to_le_bytes();
    let half =
        |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    (half(0), half(4))
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{LinuxSeccompArgBuilder, LinuxSeccompBuilder, LinuxSyscallBuilder};

    /// Runs the filter as the kernel would.
    fn run(program: &Program, number: u32, arguments: [u64; 6]) -> u32 {
        run_on(program, AUDIT_ARCH_X86_64, number, arguments)
    }

    fn run_on(program: &Program, architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let mut data = [0_u8; 64];
        data[0..4].copy_from_slice(&number.to_le_bytes());
        data[4..8].copy_from_slice(&architecture.to_le_bytes());
        for (at, argument) in arguments.iter().enumerate() {
            data[16 + at * 8..24 + at * 8].copy_from_slice(&argument.to_le_bytes());
        }
        let (mut at, mut accumulator) = (0_usize, 0_u32);
        for _ in 0..5000 {
            let instruction = program.code[at];
            at += 1;
            let jump =
                |holds: bool| usize::from(if holds { instruction.jt } else { instruction.jf });
            match instruction.code {
                LOAD => {
                    let from = instruction.k as usize;
                    accumulator = u32::from_le_bytes(data[from..from + 4].try_into().unwrap());
                }
                AND => accumulator &= instruction.k,
                JUMP => at += instruction.k as usize,
                JUMP_EQUAL => at += jump(accumulator == instruction.k),
                JUMP_GREATER => at += jump(accumulator > instruction.k),
                JUMP_GREATER_EQUAL => at += jump(accumulator >= instruction.k),
                RETURN => return instruction.k,
                other => panic!("unknown instruction {other}"),
            }
        }
        panic!("the filter does not end");
    }

    #[test]
    fn the_default_profile_denies_what_reaches_beyond_a_container() {
        let program = Program::runtime_default(&[]);
        assert!(program.code.len() < 400, "{} instructions", program.code.len());
        for (name, number) in table::SYSCALLS {
            let expected = match *name {
                "clone3" => Answer::NO_SUCH_CALL,
                "personality" => Answer::ALLOW,
                name if PRIVILEGED.iter().any(|(denied, _)| *denied == name) => Answer::FORBIDDEN,
                _ => Answer::ALLOW,
            };
            assert_eq!(run(&program, *number, [0; 6]), expected.0, "{name}");
        }
        assert_eq!(run(&program, 5000, [0; 6]), Answer::NO_SUCH_CALL.0);
        assert_eq!(run(&program, X32_BIT + 1, [0; 6]), Answer::NO_SUCH_CALL.0);
        let clone = number(table::SYSCALLS, "clone").unwrap();
        assert_eq!(run(&program, clone, [0x1000_0011, 0, 0, 0, 0, 0]), Answer::FORBIDDEN.0);
        assert_eq!(run(&program, clone, [0x0001_0f00, 0, 0, 0, 0, 0]), Answer::ALLOW.0);
        let socket = number(table::SYSCALLS, "socket").unwrap();
        assert_eq!(run(&program, socket, [40, 0, 0, 0, 0, 0]), Answer::FORBIDDEN.0);
        assert_eq!(run(&program, socket, [2, 0, 0, 0, 0, 0]), Answer::ALLOW.0);
    }

    #[test]
    fn a_capability_brings_its_calls_back() {
        let program = Program::runtime_default(&[Capability::SysAdmin]);
        for name in ["mount", "unshare", "clone3", "setns"] {
            assert_eq!(
                run(&program, number(table::SYSCALLS, name).unwrap(), [0; 6]),
                Answer::ALLOW.0,
                "{name}"
            );
        }
        assert_eq!(
            run(&program, number(table::SYSCALLS, "kexec_load").unwrap(), [0; 6]),
            Answer::FORBIDDEN.0
        );
    }

    #[test]
    fn programs_of_32_bits_are_judged_if_their_architecture_is_listed() {
        let profile = |architectures: &str| {
            let text = format!(
                r#"{{"defaultAction": "SCMP_ACT_ALLOW", "architectures": [{architectures}],
                    "syscalls": [{{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}}]}}"#
            );
            Program::compile(&serde_json::from_str(&text).unwrap()).unwrap()
        };
        let both = profile(r#""SCMP_ARCH_X86_64", "SCMP_ARCH_X86""#);
        // 39 and 83 are `mkdir` in the older and the newer table, and something else in the other.
        let old = |program: &Program, number| run_on(program, AUDIT_ARCH_I386, number, [0; 6]);
        assert_eq!((old(&both, 39), old(&both, 83)), (Answer::FORBIDDEN.0, Answer::ALLOW.0));
        assert_eq!(run(&both, 83, [0; 6]), Answer::FORBIDDEN.0);
        assert_eq!(run(&both, 39, [0; 6]), Answer::ALLOW.0);
        let native = profile(r#""SCMP_ARCH_X86_64""#);
        assert_eq!(old(&native, 83), libc::SECCOMP_RET_KILL_PROCESS);
        assert_eq!(run_on(&both, 0x1234, 39, [0; 6]), libc::SECCOMP_RET_KILL_PROCESS);
    }

    #[test]
    fn every_operator_compares_all_64_bits() {
        use LinuxSeccompOperator as Op;
        let big = 0x1_0000_0005_u64;
        type Holds = fn(u64, u64) -> bool;
        let cases: [(Op, Holds); 6] = [
            (Op::ScmpCmpEq, |a, b| a == b),
            (Op::ScmpCmpNe, |a, b| a != b),
            (Op::ScmpCmpLt, |a, b| a < b),
            (Op::ScmpCmpLe, |a, b| a <= b),
            (Op::ScmpCmpGt, |a, b| a > b),
            (Op::ScmpCmpGe, |a, b| a >= b),
        ];
        for (operator, holds) in cases {
            let arg = LinuxSeccompArgBuilder::default()
                .index(1_usize)
                .value(big)
                .op(operator)
                .build()
                .unwrap();
            let rule = LinuxSyscallBuilder::default()
                .names(vec!["read".to_owned()])
                .action(LinuxSeccompAction::ScmpActAllow)
                .args(vec![arg])
                .build()
                .unwrap();
            let profile = LinuxSeccompBuilder::default()
                .default_action(LinuxSeccompAction::ScmpActErrno)
                .syscalls(vec![rule])
                .build()
                .unwrap();
            let program = Program::compile(&profile).unwrap();
            for value in [0, 5, big - 1, big, big + 1, 0x2_0000_0000, u64::MAX, 0x1_0000_0000] {
                let expected = if holds(value, big) { Answer::ALLOW } else { Answer::FORBIDDEN };
                assert_eq!(
                    run(&program, 0, [0, value, 0, 0, 0, 0]),
                    expected.0,
                    "{operator:?} {value:#x}"
                );
            }
        }
    }
}
