//! The expressions of nf_tables rules that we use, each as one function.

use crate::wire::Attributes;

/// Four-byte registers, by position.
#[derive(Debug, Clone, Copy)]
pub struct Register(u32);

impl Register {
    /// Register `number` of the four-byte registers.
    pub const fn word(number: u32) -> Self {
        Self(8 + number)
    }
    /// The verdict register.
    pub const VERDICT: Self = Self(0);
}

/// What a connection-tracking or meta expression reads, by the kernel's numbers.
#[derive(Debug, Clone, Copy)]
pub enum Meta {
    InputName = 6,
    OutputName = 7,
    Protocol = 16,
}

#[derive(Debug, Clone, Copy)]
pub enum Comparison {
    Equal = 0,
    NotEqual = 1,
}

/// Where a packet's verdict goes.
#[derive(Debug, Clone)]
pub enum Verdict {
    Accept,
    Drop,
    Goto(String),
    Jump(String),
    Return,
}

impl Verdict {
    pub fn attributes(&self) -> Attributes {
        let (code, chain): (i32, Option<&str>) = match self {
            Self::Drop => (0, None),
            Self::Accept => (1, None),
            Self::Jump(chain) => (-3, Some(chain)),
            Self::Goto(chain) => (-4, Some(chain)),
            Self::Return => (-5, None),
        };
        let inner = Attributes::new().number(1, code.cast_unsigned());
        chain.map_or(inner.clone(), |chain| inner.text(2, chain))
    }
}

/// A rule's expressions, in order.
#[derive(Debug, Default)]
pub struct Rule(Attributes);

impl Rule {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn attributes(&self) -> &Attributes {
        &self.0
    }

    fn expression(self, name: &str, data: &Attributes) -> Self {
        let expression = Attributes::new().text(1, name).nested(2, data);
        Self(self.0.nested(1, &expression))
    }

    /// Source address of the packet.
    pub fn source(self, to: Register) -> Self {
        self.payload(to, 1, 12, 4)
    }

    /// Destination address of the packet.
    pub fn destination(self, to: Register) -> Self {
        self.payload(to, 1, 16, 4)
    }

    /// Destination port, of TCP, UDP and SCTP alike.
    pub fn destination_port(self, to: Register) -> Self {
        self.payload(to, 2, 2, 2)
    }

    fn payload(self, to: Register, base: u32, offset: u32, length: u32) -> Self {
        let data =
            Attributes::new().number(1, to.0).number(2, base).number(3, offset).number(4, length);
        self.expression("payload", &data)
    }

    pub fn meta(self, key: Meta, to: Register) -> Self {
        self.expression("meta", &Attributes::new().number(1, to.0).number(2, key as u32))
    }

    /// Bits of the connection's state, in host byte order.
    pub fn state(self, to: Register) -> Self {
        self.expression("ct", &Attributes::new().number(1, to.0).number(2, 0))
    }

    /// Bits of the connection's status, in host byte order.
    pub fn status(self, to: Register) -> Self {
        self.expression("ct", &Attributes::new().number(1, to.0).number(2, 2))
    }

    /// Kind of the destination address: 2 for one of this host's.
    pub fn destination_kind(self, to: Register) -> Self {
        self.expression("fib", &Attributes::new().number(1, to.0).number(2, 3).number(3, 2))
    }

    pub fn compare(self, register: Register, how: Comparison, value: &[u8]) -> Self {
        let data = Attributes::new()
            .number(1, register.0)
            .number(2, how as u32)
            .nested(3, &Attributes::new().bytes(1, value));
        self.expression("cmp", &data)
    }

    pub fn mask(self, register: Register, mask: &[u8]) -> Self {
        let length = u32::try_from(mask.len()).expect("a mask is a few bytes");
        let zero = vec![0; mask.len()];
        let data = Attributes::new()
            .number(1, register.0)
            .number(2, register.0)
            .number(3, length)
            .nested(4, &Attributes::new().bytes(1, mask))
            .nested(5, &Attributes::new().bytes(1, &zero));
        self.expression("bitwise", &data)
    }

    pub fn load(self, to: Register, value: &[u8]) -> Self {
        let data = Attributes::new().number(1, to.0).nested(2, &Attributes::new().bytes(1, value));
        self.expression("immediate", &data)
    }

    pub fn verdict(self, verdict: &Verdict) -> Self {
        let data = Attributes::new()
            .number(1, Register::VERDICT.0)
            .nested(2, &Attributes::new().nested(2, &verdict.attributes()));
        self.expression("immediate", &data)
    }

    /// Goes on only if the key in the registers from `key` on is in the set.
    pub fn in_set(self, set: &str, key: Register) -> Self {
        self.expression("lookup", &Attributes::new().text(1, set).number(2, key.0))
    }

    /// Looks the key up; goes on with the value in `to` only if it is there.
    pub fn lookup(self, map: &str, key: Register, to: Register) -> Self {
        let data = Attributes::new().text(1, map).number(2, key.0).number(3, to.0);
        self.expression("lookup", &data)
    }

    /// A random number below `modulus`, in host byte order.
    pub fn random(self, to: Register, modulus: u32) -> Self {
        let data = Attributes::new().number(1, to.0).number(2, modulus).number(3, 1);
        self.expression("numgen", &data)
    }

    /// Changes destination address and port to those in the registers.
    pub fn redirect(self, address: Register, port: Register) -> Self {
        let data =
            Attributes::new().number(1, 1).number(2, 2).number(3, address.0).number(5, port.0);
        self.expression("nat", &data)
    }

    /// Changes the source address to the one in the register.
    pub fn disguise(self, address: Register) -> Self {
        self.expression("nat", &Attributes::new().number(1, 0).number(2, 2).number(3, address.0))
    }

    /// Changes the source address to that of the outgoing interface.
    pub fn masquerade(self) -> Self {
        self.expression("masq", &Attributes::new())
    }

    /// Answers with ICMP port unreachable.
    pub fn refuse(self) -> Self {
        self.expression("reject", &Attributes::new().number(1, 0).bytes(2, &[3]))
    }
}
