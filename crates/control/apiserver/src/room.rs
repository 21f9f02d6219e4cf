//! What is still written when the disk is nearly full.
//!
//! A cluster whose store takes nothing at all cannot renew a lease, and so loses its nodes. The last room is therefore for
//! what keeps it going, the writes of its own components, and for deletions, which is how people make room.

use berth_objects::{Status, Subresource};

use crate::Identity;

/// Knows how much room the store has. Asked at every write; must not block for long.
pub trait Room: Send + Sync + 'static {
    /// Whether so little is left that people may not add to it.
    fn is_short(&self) -> bool;
}

/// There is always room.
#[derive(Debug, Clone, Copy, Default)]
pub struct Endless;

impl Room for Endless {
    fn is_short(&self) -> bool {
        false
    }
}

/// Refuses a person's write when room is short.
pub(crate) fn check(
    room: &dyn Room,
    identity: &Identity,
    verb: &str,
    subresource: Option<Subresource>,
) -> Result<(), Status> {
    use Subresource::{Attach, Eviction, Exec, Log, PortForward, Proxy, Token};
    let adds = matches!(verb, "create" | "update" | "patch")
        && !matches!(
            subresource,
            Some(Attach | Eviction | Exec | Log | PortForward | Proxy(_) | Token)
        );
    let own = is_component(identity);
    // Asked for every write: it is also how a full disk is noticed.
    if adds && room.is_short() && !own {
        let message = "the server has no space left: its disk is nearly full, and what is left is kept for \
                       what runs. Delete something, or make the disk larger";
        return Err(Status::new(507, "InsufficientStorage", message));
    }
    Ok(())
}

/// Whether somebody is a part of the cluster: people's pods have names of the system, too, but in namespaces of their own.
fn is_component(identity: &Identity) -> bool {
    match berth_access::service_account_of(&identity.user) {
        Some((namespace, _)) => namespace == "kube-system",
        None => identity.user.starts_with("system:"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Short;

    impl Room for Short {
        fn is_short(&self) -> bool {
            true
        }
    }

    #[test]
    fn the_last_room_is_for_what_runs_and_for_deletions() {
        let person = Identity::new("jane", &["system:masters"]);
        let node = Identity::new("system:node:a", &["system:nodes"]);
        let judge = |identity, verb, part| check(&Short, identity, verb, part);
        assert_eq!(judge(&person, "create", None).unwrap_err().code, 507);
        assert_eq!(judge(&person, "patch", None).unwrap_err().code, 507);
        for allowed in ["get", "list", "watch", "delete", "deletecollection"] {
            assert!(judge(&person, allowed, None).is_ok());
        }
        assert!(judge(&person, "create", Some(Subresource::Eviction)).is_ok());
        assert!(judge(&person, "create", Some(Subresource::Exec)).is_ok());
        assert!(judge(&node, "update", None).is_ok());
        let pod = Identity::new("system:serviceaccount:shop:default", &[]);
        assert_eq!(judge(&pod, "create", None).unwrap_err().code, 507);
        let controller = Identity::new("system:serviceaccount:kube-system:job-controller", &[]);
        assert!(judge(&controller, "create", None).is_ok());
        assert!(check(&Endless, &person, "create", None).is_ok());
    }
}
