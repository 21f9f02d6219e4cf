//! The options of a mount, as the runtime specification lists them.
//!
//! A mount is changed by attributes of the kernel's newer interface, which has no flags for what the older one only took to
//! ignore: `silent`, `loud`, `iversion` and `noiversion` are known and change nothing.

/// Attributes to set and to clear, as `mount_setattr(2)` numbers them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Change {
    pub set: u64,
    pub clear: u64,
}

impl Change {
    fn on(&mut self, flag: u64) {
        self.set |= flag;
        self.clear &= !flag;
    }

    fn off(&mut self, flag: u64) {
        self.clear |= flag;
        self.set &= !flag;
    }

    /// How access times are kept is one value rather than flags, and the kernel wants it cleared before it is set.
    fn times(&mut self, kind: u64) {
        self.set = self.set & !TIMES | kind;
        self.clear |= TIMES;
    }

    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

const TIMES: u64 = libc::MOUNT_ATTR__ATIME;

/// What a list of options says.
#[derive(Debug, Default)]
pub struct Options {
    /// Of the mount itself.
    pub top: Change,
    /// Of the mount and all below it.
    pub below: Change,
    /// `MS_*`, and whether it holds for the mounts below too. The last one stands.
    pub propagation: Option<(u64, bool)>,
    pub bind: bool,
    pub recursive: bool,
    /// What is mounted there already is changed.
    pub remount: bool,
    /// A tmpfs begins with what it covers.
    pub copy_up: bool,
    /// Ids are mapped, and whether below too.
    pub idmap: Option<bool>,
    /// Flags of a file system rather than of a mount.
    pub superblock: Vec<&'static str>,
    /// What only the file system itself knows.
    pub data: Vec<String>,
}

/// Names that set a flag, and names that clear it.
const FLAGS: [(&str, &str, u64); 6] = [
    ("ro", "rw", libc::MOUNT_ATTR_RDONLY),
    ("nosuid", "suid", libc::MOUNT_ATTR_NOSUID),
    ("nodev", "dev", libc::MOUNT_ATTR_NODEV),
    ("noexec", "exec", libc::MOUNT_ATTR_NOEXEC),
    ("nodiratime", "diratime", libc::MOUNT_ATTR_NODIRATIME),
    ("nosymfollow", "symfollow", libc::MOUNT_ATTR_NOSYMFOLLOW),
];

/// The kernel keeps relative times unless told otherwise.
const ACCESS_TIMES: [(&str, u64); 6] = [
    ("noatime", libc::MOUNT_ATTR_NOATIME),
    ("strictatime", libc::MOUNT_ATTR_STRICTATIME),
    ("relatime", libc::MOUNT_ATTR_RELATIME),
    ("atime", libc::MOUNT_ATTR_RELATIME),
    ("nostrictatime", libc::MOUNT_ATTR_RELATIME),
    ("norelatime", libc::MOUNT_ATTR_RELATIME),
];

const PROPAGATIONS: [(&str, u64); 4] = [
    ("private", libc::MS_PRIVATE),
    ("slave", libc::MS_SLAVE),
    ("shared", libc::MS_SHARED),
    ("unbindable", libc::MS_UNBINDABLE),
];

const SUPERBLOCK: [&str; 5] = ["sync", "async", "dirsync", "lazytime", "nolazytime"];
const WITHOUT_EFFECT: [&str; 5] = ["defaults", "silent", "loud", "iversion", "noiversion"];

/// All options of mounts that are known, for those who ask.
#[must_use]
pub fn known() -> Vec<String> {
    let flags = FLAGS.iter().flat_map(|(on, off, _)| [*on, *off]);
    let times = ACCESS_TIMES.iter().map(|(name, _)| *name);
    let attributes: Vec<&str> = flags.chain(times).collect();
    let below = attributes.iter().map(|name| format!("r{name}"));
    let spreads =
        PROPAGATIONS.iter().flat_map(|(name, _)| [(*name).to_owned(), format!("r{name}")]);
    let others = ["bind", "rbind", "remount", "tmpcopyup", "idmap", "ridmap"];
    let mut all: Vec<String> = below
        .chain(spreads)
        .chain(attributes.iter().copied().map(str::to_owned))
        .chain(SUPERBLOCK.iter().chain(&WITHOUT_EFFECT).map(|name| (*name).to_owned()))
        .chain(others.map(str::to_owned))
        .collect();
    all.sort();
    all
}

/// Reads the options in order; of two that contradict each other the last stands.
pub fn parse(options: &[String]) -> Options {
    let mut parsed = Options::default();
    for option in options {
        if !attribute(option, &mut parsed.top)
            && !option.strip_prefix('r').is_some_and(|name| attribute(name, &mut parsed.below))
        {
            other(option, &mut parsed);
        }
    }
    parsed
}

fn attribute(name: &str, change: &mut Change) -> bool {
    for (on, off, flag) in FLAGS {
        if name == on {
            change.on(flag);
            return true;
        }
        if name == off {
            change.off(flag);
            return true;
        }
    }
    match ACCESS_TIMES.iter().find(|(known, _)| *known == name) {
        Some((_, kind)) => change.times(*kind),
        None => return false,
    }
    true
}

fn other(option: &str, parsed: &mut Options) {
    match option {
        "bind" => parsed.bind = true,
        "rbind" => (parsed.bind, parsed.recursive) = (true, true),
        "remount" => parsed.remount = true,
        "tmpcopyup" => parsed.copy_up = true,
        "idmap" => parsed.idmap = Some(false),
        "ridmap" => parsed.idmap = Some(true),
        name if WITHOUT_EFFECT.contains(&name) => {}
        name => {
            if let Some(known) = SUPERBLOCK.iter().find(|known| **known == name) {
                parsed.superblock.push(known);
            } else if let Some((recursive, kind)) = propagation(name) {
                parsed.propagation = Some((kind, recursive));
            } else {
                parsed.data.push(name.to_owned());
            }
        }
    }
}

/// The number (`MS_*`) of a propagation by its name, and whether it is meant for mounts below too.
#[must_use]
pub fn propagation(name: &str) -> Option<(bool, u64)> {
    let find = |name: &str| PROPAGATIONS.iter().find(|(known, _)| *known == name);
    find(name)
        .map(|(_, kind)| (false, *kind))
        .or_else(|| find(name.strip_prefix('r')?).map(|(_, kind)| (true, *kind)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Options {
        parse(&text.split(',').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn the_last_of_two_opposite_options_wins() {
        let options = of("ro,nosuid,rw,rbind,size=64m");
        assert_eq!(options.top.set, libc::MOUNT_ATTR_NOSUID);
        assert_eq!(options.top.clear, libc::MOUNT_ATTR_RDONLY);
        assert!(options.bind && options.recursive);
        assert_eq!(options.data, ["size=64m"]);
    }

    #[test]
    fn what_holds_below_is_kept_apart() {
        let options = of("rro,ratime,nosuid,rslave,relatime");
        assert_eq!(options.below.set, libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_RELATIME);
        assert_eq!(options.below.clear, TIMES);
        assert_eq!(options.top.set, libc::MOUNT_ATTR_NOSUID);
        assert_eq!(options.propagation, Some((libc::MS_SLAVE, true)));
        assert_eq!(of("noatime").top, Change { set: libc::MOUNT_ATTR_NOATIME, clear: TIMES });
    }

    #[test]
    fn no_option_of_the_specification_reaches_the_file_system() {
        for name in known() {
            assert!(of(&name).data.is_empty(), "{name}");
        }
        let wanted = "async atime bind defaults dev diratime dirsync exec iversion lazytime loud noatime nodev \
            nodiratime noexec noiversion nolazytime norelatime nostrictatime nosuid nosymfollow private ratime rbind \
            rdev rdiratime relatime remount rexec rnoatime rnodev rnodiratime rnoexec rnorelatime rnostrictatime \
            rnosuid rnosymfollow ro rprivate rrelatime rro rrw rshared rslave rstrictatime rsuid rsymfollow \
            runbindable rw shared silent slave strictatime suid symfollow sync tmpcopyup unbindable idmap ridmap";
        let known = known();
        for name in wanted.split_whitespace() {
            assert!(known.iter().any(|it| it == name), "{name}");
        }
    }
}
