//! The ruleset in the kernel: constant chains, and elements edited in one transaction.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use berth_sys::netlink::{Family, open};
use rustix::net::{RecvFlags, SendFlags};

use crate::expression::{Comparison, Meta, Register, Rule, Verdict};
use crate::ruleset::{CHAINS, Direction, Elements, Place, Ruleset, Step, Table, Value, plan};
use crate::wire::{Attributes, Batch, Verb, answers};

/// How this node's rules are named and what they are about.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Name of the table.
    pub table: String,
    /// What the names of the pods' interfaces on the host begin with.
    pub interfaces: String,
    /// The pods' addresses.
    pub pods: (Ipv4Addr, u8),
    /// The node's own address among them: what a disguised connection seems to come from.
    pub gateway: Ipv4Addr,
    /// Where the node answers DNS. It is one of the node's own addresses, and no published port takes it.
    pub dns: Ipv4Addr,
}

/// The rules of one node. The table stays in the kernel when this is dropped, so that traffic flows while the server is
/// away; [`Firewall::remove`] takes it out.
#[derive(Debug)]
pub struct Firewall {
    settings: Settings,
    socket: OwnedFd,
    elements: Elements,
}

/// Why the kernel does not have the rules.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// No netlink socket, or no answer on it.
    #[error("cannot talk to nftables")]
    Netlink(#[source] io::Error),
    /// A message was refused; the whole batch has no effect.
    #[error("nftables refused {purpose}")]
    Refused {
        /// What the message was to do.
        purpose: String,
        /// The kernel's reason.
        source: io::Error,
    },
}

const HOOK_PREROUTING: u32 = 0;
const HOOK_FORWARD: u32 = 2;
const HOOK_OUTPUT: u32 = 3;
const HOOK_POSTROUTING: u32 = 4;

impl Firewall {
    /// Replaces whatever table of this name the kernel has by the rules and `ruleset`, in one transaction: there is no
    /// moment without rules.
    ///
    /// # Errors
    /// See [`FirewallError`].
    pub fn install(settings: Settings, ruleset: &Ruleset) -> Result<Self, FirewallError> {
        let socket = open(Family::Netfilter).map_err(FirewallError::Netlink)?;
        let mut firewall = Self { settings, socket, elements: Elements::new() };
        let mut batch = Batch::new();
        // Creating first makes the deletion succeed also when there was none.
        firewall.table(&mut batch, Verb::NewTable, "create the table");
        firewall.table(&mut batch, Verb::DeleteTable, "replace the old table");
        firewall.table(&mut batch, Verb::NewTable, "create the table");
        firewall.skeleton(&mut batch);
        let wanted = ruleset.elements();
        firewall.edit(&mut batch, &plan(&wanted, &Elements::new()));
        firewall.commit(batch)?;
        firewall.elements = wanted;
        Ok(firewall)
    }

    /// Changes the elements to those of `ruleset`, in one transaction. Returns how many changed.
    ///
    /// # Errors
    /// See [`FirewallError`]; then nothing has changed.
    pub fn update(&mut self, ruleset: &Ruleset) -> Result<usize, FirewallError> {
        let wanted = ruleset.elements();
        let steps = plan(&wanted, &self.elements);
        if steps.is_empty() {
            return Ok(0);
        }
        let mut batch = Batch::new();
        self.edit(&mut batch, &steps);
        self.commit(batch)?;
        self.elements = wanted;
        Ok(steps.len())
    }

    /// Takes the table named in `settings` out of the kernel; none there is fine.
    ///
    /// # Errors
    /// See [`FirewallError`].
    pub fn remove(settings: Settings) -> Result<(), FirewallError> {
        let socket = open(Family::Netfilter).map_err(FirewallError::Netlink)?;
        let firewall = Self { settings, socket, elements: Elements::new() };
        let mut batch = Batch::new();
        firewall.table(&mut batch, Verb::NewTable, "find the table");
        firewall.table(&mut batch, Verb::DeleteTable, "remove the table");
        firewall.commit(batch)
    }

    fn table(&self, batch: &mut Batch, verb: Verb, purpose: &str) {
        let attributes = Attributes::new().text(1, &self.settings.table).number(2, 0);
        let attributes = match verb {
            Verb::DeleteTable => Attributes::new().text(1, &self.settings.table),
            _ => attributes,
        };
        batch.push(verb, format!("to {purpose} `{}`", self.settings.table), &attributes);
    }

    fn skeleton(&self, batch: &mut Batch) {
        for (id, place) in (1..).zip(Place::ALL) {
            self.set(batch, place, id);
        }
        for count in 1..=CHAINS {
            self.chain(batch, &format!("one{count}"), None);
            self.chain(batch, &format!("any{count}"), None);
        }
        self.choosers(batch);
        self.chain(batch, "guard", Some(("filter", HOOK_PREROUTING, -300)));
        self.chain(batch, "refuse", Some(("filter", HOOK_PREROUTING, -110)));
        self.chain(batch, "refuse-local", Some(("filter", HOOK_OUTPUT, -110)));
        self.chain(batch, "service", Some(("nat", HOOK_PREROUTING, -100)));
        self.chain(batch, "service-local", Some(("nat", HOOK_OUTPUT, -100)));
        self.chain(batch, "disguise", Some(("nat", HOOK_POSTROUTING, 100)));
        self.chain(batch, "policies", Some(("filter", HOOK_FORWARD, 0)));
        self.guard(batch);
        for chain in ["refuse", "refuse-local"] {
            self.rule(batch, chain, frontend().in_set("refused", WORD0).refuse());
            self.rule(batch, chain, self.host_frontend().in_set("refused", WORD0).refuse());
        }
        for chain in ["service", "service-local"] {
            self.rule(batch, chain, frontend().lookup("service", WORD0, Register::VERDICT));
            self.rule(
                batch,
                chain,
                self.host_frontend().lookup("service", WORD0, Register::VERDICT),
            );
        }
        self.disguise(batch);
        self.policy(batch);
    }

    /// Pods may not reach the host's loopback, which routing for published ports would otherwise open to them, nor link-local
    /// addresses: there a cloud tells whoever asks the machine's own credentials.
    fn guard(&self, batch: &mut Batch) {
        let rule = self
            .entering_from_pod(Rule::new())
            .destination(WORD0)
            .mask(WORD0, &[255, 0, 0, 0])
            .compare(WORD0, Comparison::Equal, &[127, 0, 0, 0])
            .verdict(&Verdict::Drop);
        self.rule(batch, "guard", rule);
        let rule = self
            .entering_from_pod(Rule::new())
            .destination(WORD0)
            .mask(WORD0, &[255, 255, 0, 0])
            .compare(WORD0, Comparison::Equal, &[169, 254, 0, 0])
            .refuse();
        self.rule(batch, "guard", rule);
    }

    /// One chain for each number of endpoints: choose one at random, then go to it.
    fn choosers(&self, batch: &mut Batch) {
        for count in 1..=CHAINS {
            let modulus = u32::try_from(count).expect("there are few chains");
            for (name, rule) in
                [(format!("one{count}"), frontend()), (format!("any{count}"), any_frontend())]
            {
                let rule = rule
                    .random(WORD3, modulus)
                    .lookup("endpoint", WORD0, WORD4)
                    .redirect(WORD4, WORD5);
                self.rule(batch, &name, rule);
            }
        }
    }

    /// What must not keep its source address: connections of a pod to itself through a Service, of the host's loopback
    /// to pods, and of pods to the world.
    fn disguise(&self, batch: &mut Batch) {
        let gateway = self.settings.gateway.octets();
        let hairpin = Rule::new()
            .source(WORD0)
            .destination(WORD1)
            .in_set("hairpin", WORD0)
            .load(WORD4, &gateway)
            .disguise(WORD4);
        self.rule(batch, "disguise", hairpin);
        let loopback = self
            .leaving_to_pod(Rule::new())
            .source(WORD0)
            .mask(WORD0, &[255, 0, 0, 0])
            .compare(WORD0, Comparison::Equal, &[127, 0, 0, 0])
            .load(WORD4, &gateway)
            .disguise(WORD4);
        self.rule(batch, "disguise", loopback);
        let (network, length) = self.settings.pods;
        let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0).to_be_bytes();
        let world = Rule::new()
            .source(WORD0)
            .mask(WORD0, &mask)
            .compare(WORD0, Comparison::Equal, &network.octets())
            .destination(WORD1)
            .mask(WORD1, &mask)
            .compare(WORD1, Comparison::NotEqual, &network.octets())
            .masquerade();
        self.rule(batch, "disguise", world);
    }

    /// Replies pass; then what leaves an isolated pod, then what enters one, must be allowed by a set.
    fn policy(&self, batch: &mut Batch) {
        self.chain(batch, "leaving", None);
        self.chain(batch, "entering", None);
        let established = Rule::new()
            .state(WORD0)
            .mask(WORD0, &6_u32.to_ne_bytes())
            .compare(WORD0, Comparison::NotEqual, &0_u32.to_ne_bytes())
            .verdict(&Verdict::Accept);
        self.rule(batch, "policies", established);
        let leaving = Rule::new()
            .source(WORD0)
            .in_set("out-isolated", WORD0)
            .verdict(&Verdict::Jump("leaving".to_owned()));
        self.rule(batch, "policies", leaving);
        // A published port was opened for everybody outside.
        let published = Rule::new()
            .meta(Meta::InputName, WORD0)
            .compare(WORD0, Comparison::NotEqual, self.settings.interfaces.as_bytes())
            .status(WORD0)
            .mask(WORD0, &32_u32.to_ne_bytes())
            .compare(WORD0, Comparison::NotEqual, &0_u32.to_ne_bytes())
            .verdict(&Verdict::Accept);
        self.rule(batch, "policies", published);
        let entering = Rule::new()
            .destination(WORD0)
            .in_set("in-isolated", WORD0)
            .verdict(&Verdict::Goto("entering".to_owned()));
        self.rule(batch, "policies", entering);
        self.direction(batch, Direction::Outbound, "leaving");
        self.direction(batch, Direction::Inbound, "entering");
    }

    fn direction(&self, batch: &mut Batch, direction: Direction, chain: &str) {
        // Leaving goes on to entering when allowed; entering is the last word.
        let allowed = match direction {
            Direction::Outbound => Rule::returning,
            Direction::Inbound => Rule::accepting,
        };
        let name = |table| Place::Policy(direction, table).name();
        let own = || match direction {
            Direction::Outbound => Rule::new().source(WORD0),
            Direction::Inbound => Rule::new().destination(WORD0),
        };
        let pair = || match direction {
            Direction::Outbound => own().destination(WORD1),
            Direction::Inbound => own().source(WORD1),
        };
        let transport = |rule: Rule, at: Register, port: Register| {
            rule.meta(Meta::Protocol, at).destination_port(port)
        };
        let rules = [
            own().in_set(name(Table::Anybody), WORD0),
            transport(own(), WORD1, WORD2).in_set(name(Table::AnybodyPorts), WORD0),
            pair().in_set(name(Table::Peers), WORD0),
            transport(pair(), WORD2, WORD3).in_set(name(Table::PeerPorts), WORD0),
        ];
        for rule in rules {
            self.rule(batch, chain, allowed(rule));
        }
        self.rule(batch, chain, Rule::new().verdict(&Verdict::Drop));
    }

    fn entering_from_pod(&self, rule: Rule) -> Rule {
        rule.meta(Meta::InputName, WORD0).compare(
            WORD0,
            Comparison::Equal,
            self.settings.interfaces.as_bytes(),
        )
    }

    fn leaving_to_pod(&self, rule: Rule) -> Rule {
        rule.meta(Meta::OutputName, WORD0).compare(
            WORD0,
            Comparison::Equal,
            self.settings.interfaces.as_bytes(),
        )
    }

    fn chain(&self, batch: &mut Batch, name: &str, hook: Option<(&str, u32, i32)>) {
        let mut attributes = Attributes::new().text(1, &self.settings.table).text(3, name);
        if let Some((kind, hook, priority)) = hook {
            let place = Attributes::new().number(1, hook).number(2, priority.cast_unsigned());
            attributes = attributes.nested(4, &place).number(5, 1).text(7, kind);
        }
        batch.push(Verb::NewChain, format!("chain `{name}`"), &attributes);
    }

    fn rule(&self, batch: &mut Batch, chain: &str, rule: Rule) {
        let attributes = Attributes::new()
            .text(1, &self.settings.table)
            .text(2, chain)
            .nested(4, rule.attributes());
        batch.push(Verb::NewRule, format!("a rule of chain `{chain}`"), &attributes);
    }

    fn set(&self, batch: &mut Batch, place: Place, id: u32) {
        let shape = Shape::of(place);
        let mut attributes = Attributes::new()
            .text(1, &self.settings.table)
            .text(2, place.name())
            .number(3, shape.flags())
            .number(4, shape.key_type)
            .number(5, shape.key_length);
        if let Some((kind, length)) = shape.data {
            attributes = attributes.number(6, kind).number(7, length);
        }
        batch.push(Verb::NewSet, format!("set `{}`", place.name()), &attributes.number(10, id));
    }

    /// Elements by place, several to a message.
    fn edit(&self, batch: &mut Batch, steps: &[Step]) {
        /// An attribute holds 64 KiB.
        const FULL: usize = 48 << 10;
        let mut pending: Option<(Verb, Place, Attributes)> = None;
        for step in steps {
            let (verb, place, element) = match step {
                Step::Remove(place, key) => (Verb::DeleteElement, *place, element(key, None)),
                Step::Add(place, key, value) => {
                    (Verb::NewElement, *place, element(key, Some(value)))
                }
            };
            match &mut pending {
                Some((same, at, list)) if *same == verb && *at == place && list.len() < FULL => {
                    *list = std::mem::take(list).nested(1, &element);
                }
                other => {
                    if let Some((verb, place, list)) =
                        other.replace((verb, place, Attributes::new().nested(1, &element)))
                    {
                        self.elements_message(batch, verb, place, &list);
                    }
                }
            }
        }
        if let Some((verb, place, list)) = pending {
            self.elements_message(batch, verb, place, &list);
        }
    }

    fn elements_message(&self, batch: &mut Batch, verb: Verb, place: Place, list: &Attributes) {
        let attributes =
            Attributes::new().text(1, &self.settings.table).text(2, place.name()).nested(3, list);
        batch.push(verb, format!("an element of `{}`", place.name()), &attributes);
    }

    fn commit(&self, batch: Batch) -> Result<(), FirewallError> {
        if batch.is_empty() {
            return Ok(());
        }
        let (bytes, purposes) = batch.finish();
        let end = u32::try_from(purposes.len() + 1).unwrap_or(u32::MAX);
        let netlink = |error: rustix::io::Errno| FirewallError::Netlink(error.into());
        rustix::net::send(&self.socket, &bytes, SendFlags::empty()).map_err(netlink)?;
        let mut buffer = vec![0_u8; 64 << 10];
        loop {
            let (length, _) = rustix::io::retry_on_intr(|| {
                rustix::net::recv(&self.socket, buffer.as_mut_slice(), RecvFlags::empty())
            })
            .map_err(netlink)?;
            for answer in answers(&buffer[..length]) {
                if answer.errno != 0 {
                    self.drain(&mut buffer);
                    let index = (answer.sequence as usize).checked_sub(1);
                    let purpose = index.and_then(|index| purposes.get(index));
                    return Err(FirewallError::Refused {
                        purpose: purpose.cloned().unwrap_or_else(|| "the batch".to_owned()),
                        source: io::Error::from_raw_os_error(answer.errno),
                    });
                }
                if answer.sequence == end {
                    return Ok(());
                }
            }
        }
    }

    /// Throws away further answers to a failed batch, so that the next one does not read them as its own.
    fn drain(&self, buffer: &mut [u8]) {
        while rustix::net::recv(&self.socket, &mut *buffer, RecvFlags::DONTWAIT).is_ok() {}
    }
}

const WORD0: Register = Register::word(0);
const WORD1: Register = Register::word(1);
const WORD2: Register = Register::word(2);
const WORD3: Register = Register::word(3);
const WORD4: Register = Register::word(4);
const WORD5: Register = Register::word(5);

/// Destination address, protocol and port into the first three words.
fn frontend() -> Rule {
    Rule::new().destination(WORD0).meta(Meta::Protocol, WORD1).destination_port(WORD2)
}

/// The same with the address that stands for all of this host's.
fn any_frontend() -> Rule {
    Rule::new().load(WORD0, &[0; 4]).meta(Meta::Protocol, WORD1).destination_port(WORD2)
}

impl Firewall {
    fn host_frontend(&self) -> Rule {
        Rule::new()
            .destination(WORD0)
            .compare(WORD0, Comparison::NotEqual, &self.settings.dns.octets())
            .destination_kind(WORD0)
            .compare(WORD0, Comparison::Equal, &2_u32.to_ne_bytes())
            .load(WORD0, &[0; 4])
            .meta(Meta::Protocol, WORD1)
            .destination_port(WORD2)
    }
}

impl Rule {
    fn accepting(self) -> Self {
        self.verdict(&Verdict::Accept)
    }

    fn returning(self) -> Self {
        self.verdict(&Verdict::Return)
    }
}

fn element(key: &[u8], value: Option<&Value>) -> Attributes {
    let element = Attributes::new().nested(1, &Attributes::new().bytes(1, key));
    match value {
        None | Some(Value::Nothing) => element,
        Some(Value::Bytes(bytes)) => element.nested(2, &Attributes::new().bytes(1, bytes)),
        Some(Value::Chain(chain)) => {
            let verdict = Verdict::Goto(chain.clone()).attributes();
            element.nested(2, &Attributes::new().nested(2, &verdict))
        }
    }
}

/// Key and value types of a set. The numbers are those by which `nft` shows fields to people.
struct Shape {
    key_type: u32,
    key_length: u32,
    data: Option<(u32, u32)>,
}

const ADDRESS: u32 = 7;
const PROTOCOL: u32 = 12;
const PORT: u32 = 13;
const MARK: u32 = 19;
const VERDICT: u32 = 0xffff_ff00;

impl Shape {
    fn of(place: Place) -> Self {
        let key = |fields: &[u32]| {
            let kind = fields.iter().fold(0, |kind, field| kind << 6 | field);
            (kind, u32::try_from(fields.len() * 4).unwrap_or(u32::MAX))
        };
        let ((key_type, key_length), data) = match place {
            Place::Service => (key(&[ADDRESS, PROTOCOL, PORT]), Some((VERDICT, 16))),
            Place::Endpoint => {
                (key(&[ADDRESS, PROTOCOL, PORT, MARK]), Some((ADDRESS << 6 | PORT, 8)))
            }
            Place::Refused => (key(&[ADDRESS, PROTOCOL, PORT]), None),
            Place::Hairpin => (key(&[ADDRESS, ADDRESS]), None),
            Place::Policy(_, Table::Isolated | Table::Anybody) => (key(&[ADDRESS]), None),
            Place::Policy(_, Table::Peers) => (key(&[ADDRESS, ADDRESS]), None),
            Place::Policy(_, Table::PeerPorts) => (key(&[ADDRESS, ADDRESS, PROTOCOL, PORT]), None),
            Place::Policy(_, Table::AnybodyPorts) => (key(&[ADDRESS, PROTOCOL, PORT]), None),
        };
        Self { key_type, key_length, data }
    }

    fn flags(&self) -> u32 {
        if self.data.is_some() { 8 } else { 0 }
    }
}
