//! Rules on devices: lines for the files of version 1, and for version 2, which has none, a small program that the kernel asks.
//!
//! The program is our own, instruction by instruction. The rules are looked at from the last to the first: one that allows takes what it allows
//! from what was asked for, one that forbids ends it if any of that is left. This is what the files of version 1 come to, where each
//! rule changes the outcome of those before.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use berth_sys::bpf::{
    Instruction, attach_device_program, detach_device_program, device_programs, load_device_program,
};
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xbf;
const MOVE_VALUE: u8 = 0xb7;
const AND_VALUE: u8 = 0x57;
const SHIFT_RIGHT_VALUE: u8 = 0x77;
const JUMP_NOT_EQUAL: u8 = 0x55;
const JUMP_ANY_BIT: u8 = 0x45;
const EXIT: u8 = 0x95;

// Registers: the answer, what the kernel passes, and what we take from it.
const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ASKED: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;
const ALL: i32 = 7;

fn instruction(code: u8, target: u8, source: u8, offset: i16, value: i32) -> Instruction {
    Instruction { code, registers: target | source << 4, offset, value }
}

fn with_value(code: u8, target: u8, value: i32) -> Instruction {
    instruction(code, target, 0, 0, value)
}

/// The program for these rules. What none of them speaks of is allowed.
pub fn program(rules: &[LinuxDeviceCgroup]) -> io::Result<Vec<Instruction>> {
    let mut code = vec![
        instruction(LOAD_WORD, KIND, CONTEXT, 0, 0),
        instruction(MOVE, ASKED, KIND, 0, 0),
        with_value(AND_VALUE, KIND, 0xffff),
        with_value(SHIFT_RIGHT_VALUE, ASKED, 16),
        instruction(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules.iter().rev() {
        code.extend(block(rule)?);
    }
    code.extend(answer(1));
    Ok(code)
}

fn answer(answer: i32) -> [Instruction; 2] {
    [with_value(MOVE_VALUE, ANSWER, answer), instruction(EXIT, 0, 0, 0, 0)]
}

fn block(rule: &LinuxDeviceCgroup) -> io::Result<Vec<Instruction>> {
    let mut code = Vec::new();
    match rule.typ() {
        Some(LinuxDeviceType::B) => code.push(with_value(JUMP_NOT_EQUAL, KIND, BLOCK)),
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => {
            code.push(with_value(JUMP_NOT_EQUAL, KIND, CHARACTER));
        }
        Some(LinuxDeviceType::P) => return Err(no_device()),
        Some(LinuxDeviceType::A) | None => {}
    }
    for (register, number) in [(MAJOR, rule.major()), (MINOR, rule.minor())] {
        if let Some(number) = number.filter(|number| *number >= 0) {
            let number = i32::try_from(number).map_err(io::Error::other)?;
            code.push(with_value(JUMP_NOT_EQUAL, register, number));
        }
    }
    let access = access(rule.access().as_deref().unwrap_or_default())?;
    let verdict = if rule.allow() {
        let [yes, exit] = answer(1);
        // Over the answer, if something is left that this rule does not allow.
        let over = instruction(JUMP_NOT_EQUAL, ASKED, 0, 2, 0);
        vec![with_value(AND_VALUE, ASKED, ALL & !access), over, yes, exit]
    } else {
        let [no, exit] = answer(0);
        let (any, none) =
            (instruction(JUMP_ANY_BIT, ASKED, 0, 1, access), instruction(0x05, 0, 0, 2, 0));
        vec![any, none, no, exit]
    };
    // What does not fit jumps over the rest of the rule.
    let length = code.len() + verdict.len();
    for (at, condition) in code.iter_mut().enumerate() {
        condition.offset = i16::try_from(length - at - 1).map_err(io::Error::other)?;
    }
    code.extend(verdict);
    Ok(code)
}

fn no_device() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "there are no rules on pipes")
}

/// The files of version 1 and the lines for these rules.
///
/// There, `a` means every access to every device, whatever else the line says; so a rule on both kinds is one on each. And an exception
/// can only be taken back as it was made: where a rule forbids part of what one before it allows, version 1 cannot say so.
pub fn lines(rules: &[LinuxDeviceCgroup]) -> io::Result<Vec<(&'static str, String)>> {
    let mut all = Vec::new();
    let mut exceptions: Vec<(bool, Rule)> = Vec::new();
    // Whether what no rule speaks of is allowed, as far as these rules say.
    let mut usual = None;
    for rule in rules {
        let access = access(rule.access().as_deref().unwrap_or_default())?;
        let file = if rule.allow() { "devices.allow" } else { "devices.deny" };
        let kinds = match rule.typ() {
            Some(LinuxDeviceType::B) => "b",
            Some(LinuxDeviceType::C | LinuxDeviceType::U) => "c",
            Some(LinuxDeviceType::P) => return Err(no_device()),
            Some(LinuxDeviceType::A) | None => "bc",
        };
        let place = [rule.major(), rule.minor()].map(|number| number.filter(|it| *it >= 0));
        if kinds == "bc" && place == [None, None] && access == ALL {
            exceptions.clear();
            usual = Some(rule.allow());
            all.push((file, "a *:* rwm".to_owned()));
            continue;
        }
        for kind in kinds.chars() {
            let rule_on = Rule { kind, place, access };
            let part = |(allow, other): &(bool, Rule)| {
                *allow != rule.allow() && other.meets(&rule_on) && other.place != place
            };
            if usual == Some(rule.allow()) && exceptions.iter().any(part) {
                let reason = "version 1 cannot take back a part of a former rule on devices";
                return Err(io::Error::new(io::ErrorKind::Unsupported, reason));
            }
            exceptions.push((rule.allow(), rule_on));
            all.push((file, rule_on.line()));
        }
    }
    Ok(all)
}

/// What a rule speaks of: a kind, numbers if not all, and bits of access.
#[derive(Clone, Copy)]
struct Rule {
    kind: char,
    place: [Option<i64>; 2],
    access: i32,
}

impl Rule {
    fn meets(&self, other: &Self) -> bool {
        let mut places = self.place.iter().zip(&other.place);
        self.kind == other.kind
            && self.access & other.access != 0
            && places.all(|(a, b)| a.is_none() || b.is_none() || a == b)
    }

    fn line(&self) -> String {
        let [major, minor] =
            self.place.map(|number| number.map_or("*".to_owned(), |number| number.to_string()));
        let letters = [(2, 'r'), (4, 'w'), (1, 'm')].into_iter();
        let access: String =
            letters.filter(|(bit, _)| self.access & bit != 0).map(|(_, letter)| letter).collect();
        format!("{} {major}:{minor} {access}", self.kind)
    }
}

/// Making is 1, reading 2, writing 4; nothing said is all.
fn access(text: &str) -> io::Result<i32> {
    if text.is_empty() {
        return Ok(ALL);
    }
    text.chars().try_fold(0, |all, letter| match letter {
        'm' => Ok(all | 1),
        'r' => Ok(all | 2),
        'w' => Ok(all | 4),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "access to a device is of `rwm`")),
    })
}

/// Has these rules, and no former ones, hold in a cgroup of version 2.
pub fn decide(cgroup: BorrowedFd<'_>, rules: &[LinuxDeviceCgroup]) -> io::Result<()> {
    let loaded = load_device_program(&program(rules)?)?;
    let former = device_programs(cgroup)?;
    // The new one first: at no moment is everything allowed.
    attach_device_program(cgroup, loaded.as_fd())?;
    former.iter().try_for_each(|program| detach_device_program(cgroup, program.as_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel would.
    fn ask(rules: &str, kind: i32, access: u32, major: u32, minor: u32) -> u64 {
        let rules: Vec<LinuxDeviceCgroup> = serde_json::from_str(rules).unwrap();
        let code = program(&rules).unwrap();
        let context = [access << 16 | kind.cast_unsigned(), major, minor];
        let mut registers = [0_u64; 11];
        let mut at = 0;
        loop {
            let it = code[at];
            at += 1;
            let target = usize::from(it.registers & 15);
            let value = u64::from(it.value.cast_unsigned());
            let jump = |holds: bool| if holds { usize::try_from(it.offset).unwrap() } else { 0 };
            match it.code {
                LOAD_WORD => {
                    registers[target] = context[usize::try_from(it.offset).unwrap() / 4].into();
                }
                MOVE => registers[target] = registers[usize::from(it.registers >> 4)],
                MOVE_VALUE => registers[target] = value,
                AND_VALUE => registers[target] &= value,
                SHIFT_RIGHT_VALUE => registers[target] >>= value,
                JUMP_NOT_EQUAL => at += jump(registers[target] != value),
                JUMP_ANY_BIT => at += jump(registers[target] & value != 0),
                0x05 => at += jump(true),
                EXIT => return registers[0],
                other => panic!("unknown instruction {other}"),
            }
        }
    }

    const READ: u32 = 2;
    const WRITE: u32 = 4;
    const MAKE: u32 = 1;

    #[test]
    fn later_rules_stand_above_earlier_ones() {
        let rules = r#"[{"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "r"},
            {"allow": true, "type": "c", "major": 1, "access": "w"},
            {"allow": true, "type": "b", "major": 8, "minor": 0},
            {"allow": false, "type": "b", "major": 8, "access": "m"}]"#;
        let cases = [
            (CHARACTER, READ, 1, 3, 1),
            (CHARACTER, READ | WRITE, 1, 3, 1),
            (CHARACTER, READ, 1, 5, 0),
            (CHARACTER, WRITE, 1, 5, 1),
            (CHARACTER, MAKE, 1, 3, 0),
            (CHARACTER, READ, 5, 1, 0),
            (BLOCK, READ | WRITE, 8, 0, 1),
            (BLOCK, READ | MAKE, 8, 0, 0),
            (BLOCK, READ, 8, 1, 0),
        ];
        for (kind, access, major, minor, wanted) in cases {
            let case = (kind, access, major, minor);
            assert_eq!(ask(rules, kind, access, major, minor), wanted, "{case:?}");
        }
        assert_eq!(ask("[]", BLOCK, READ, 8, 0), 1);
        assert!(
            program(
                &serde_json::from_str::<Vec<_>>(r#"[{"allow": true, "access": "x"}]"#).unwrap()
            )
            .is_err()
        );
    }

    /// What version 1 answers, as the kernel treats its files: a usual answer and exceptions, each taken back only as it was made.
    fn ask_files(rules: &str, kind: i32, access: u32, major: u32, minor: u32) -> u64 {
        let rules: Vec<LinuxDeviceCgroup> = serde_json::from_str(rules).unwrap();
        let mut usual = true;
        let mut exceptions: Vec<(String, String, u32)> = Vec::new();
        let bits = |text: &str| -> u32 {
            text.chars()
                .map(|it| match it {
                    'r' => READ,
                    'w' => WRITE,
                    _ => MAKE,
                })
                .sum()
        };
        for (file, line) in lines(&rules).unwrap() {
            let words: Vec<&str> = line.split(' ').collect();
            let allow = file == "devices.allow";
            if words[0] == "a" {
                (usual, exceptions) = (allow, Vec::new());
                continue;
            }
            let (kind, place, access) = (words[0].to_owned(), words[1].to_owned(), bits(words[2]));
            if allow == usual {
                for it in exceptions.iter_mut().filter(|it| (&it.0, &it.1) == (&kind, &place)) {
                    it.2 &= !access;
                }
            } else {
                exceptions.push((kind, place, access));
            }
        }
        let own = if kind == BLOCK { "b" } else { "c" };
        let fits = |place: &str| {
            let (first, second) = place.split_once(':').unwrap();
            (first == "*" || first == major.to_string())
                && (second == "*" || second == minor.to_string())
        };
        let met: Vec<_> = exceptions.iter().filter(|it| it.0 == own && fits(&it.1)).collect();
        // One exception has to allow all that is asked; any that forbids some of it is enough.
        u64::from(match usual {
            true => !met.iter().any(|it| it.2 & access != 0),
            false => met.iter().any(|it| it.2 & access == access),
        })
    }

    #[test]
    fn both_versions_answer_the_same() {
        for rules in [
            r#"[{"allow": false}, {"allow": true, "major": 1, "access": "w"}]"#,
            r#"[{"allow": false, "access": "rwm"}, {"allow": true, "type": "a", "major": 8, "minor": 0}]"#,
            r#"[{"allow": false}, {"allow": true, "access": "m"}, {"allow": true, "type": "c", "major": 1, "minor": 3}]"#,
            r#"[{"allow": true}, {"allow": false, "access": "w"}]"#,
            r#"[{"allow": true}, {"allow": false, "type": "b", "major": 8}, {"allow": false, "type": "a", "minor": 3, "access": "r"}]"#,
            r#"[{"allow": false}, {"allow": true, "type": "b", "major": 8}, {"allow": false, "type": "b", "major": 8, "access": "w"}]"#,
        ] {
            for kind in [BLOCK, CHARACTER] {
                for (major, minor) in [(1, 3), (1, 5), (8, 0), (8, 3), (9, 9)] {
                    for access in [READ, WRITE, MAKE, READ | WRITE] {
                        let case = (rules, kind, access, major, minor);
                        assert_eq!(
                            ask_files(rules, kind, access, major, minor),
                            ask(rules, kind, access, major, minor),
                            "{case:?}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_said_is_refused() {
        let read = |text| serde_json::from_str::<Vec<LinuxDeviceCgroup>>(text).unwrap();
        let pipe = read(r#"[{"allow": true, "type": "p"}]"#);
        assert!(lines(&pipe).is_err() && program(&pipe).is_err());
        let part = r#"[{"allow": false}, {"allow": true, "type": "b", "major": 8, "minor": 0},
            {"allow": false, "type": "b", "major": 8, "access": "m"}]"#;
        assert!(lines(&read(part)).is_err());
        assert!(lines(&read(r#"[{"allow": true, "access": "x"}]"#)).is_err());
    }
}
