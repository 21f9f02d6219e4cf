//! Lists of processors and of memory nodes, such as `0-3,7`.

use berth_sys::attributes::MemoryPolicy;
use oci_spec::runtime::{Linux, MemoryPolicyFlagType, MemoryPolicyModeType};
use rustix::thread::CpuSet;

use crate::OciError;

/// The numbers of a list, all below `end`.
fn numbers(list: &str, end: usize, what: &str) -> Result<Vec<usize>, OciError> {
    let wrong = || OciError::Invalid(format!("`{list}` is no list of {what}"));
    let mut all = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: usize = first.parse().map_err(|_| wrong())?;
        let last: usize = last.parse().map_err(|_| wrong())?;
        if first > last || last >= end {
            return Err(wrong());
        }
        all.extend(first..=last);
    }
    if all.is_empty() { Err(wrong()) } else { Ok(all) }
}

/// A set of processors.
pub(crate) fn processors(list: &str) -> Result<CpuSet, OciError> {
    let mut set = CpuSet::new();
    numbers(list, CpuSet::MAX_CPU, "processors")?.iter().for_each(|number| set.set(*number));
    Ok(set)
}

/// Where the memory of a container comes from; the numbers are those of `linux/mempolicy.h`.
pub(crate) fn memory(linux: Option<&Linux>) -> Result<Option<MemoryPolicy>, OciError> {
    let Some(asked) = linux.and_then(|linux| linux.memory_policy().as_ref()) else {
        return Ok(None);
    };
    let mode = match asked.mode() {
        MemoryPolicyModeType::MpolDefault => 0,
        MemoryPolicyModeType::MpolPreferred => 1,
        MemoryPolicyModeType::MpolBind => 2,
        MemoryPolicyModeType::MpolInterleave => 3,
        MemoryPolicyModeType::MpolLocal => 4,
        MemoryPolicyModeType::MpolPreferredMany => 5,
        MemoryPolicyModeType::MpolWeightedInterleave => 6,
    };
    let flag = |flag: &MemoryPolicyFlagType| match flag {
        MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
        MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
        MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
    };
    let mode = asked.flags().iter().flatten().map(flag).fold(mode, |all, flag| all | flag);
    let mut policy = MemoryPolicy { mode, ..MemoryPolicy::default() };
    if let Some(list) = asked.nodes().as_deref().filter(|list| !list.is_empty()) {
        let bits = 64 * policy.nodes.len();
        for number in numbers(list, bits, "memory nodes")? {
            policy.nodes[number / 64] |= 1 << (number % 64);
        }
    }
    Ok(Some(policy))
}
