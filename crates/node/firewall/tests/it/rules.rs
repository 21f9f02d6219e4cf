//! What the kernel holds after an install, an update and a removal.

use std::net::Ipv4Addr;

use berth_firewall::{Backend, Firewall, FirewallError, Frontend, Protocol, Ruleset};

use crate::support::{Net, pod, run, settings};

fn service(number: u8, endpoints: u8) -> (Frontend, Vec<Backend>) {
    let frontend =
        Frontend { address: Ipv4Addr::new(10, 43, 0, number), protocol: Protocol::Tcp, port: 80 };
    (frontend, (0..endpoints).map(|number| Backend { address: pod(number), port: 8080 }).collect())
}

#[test]
fn an_update_touches_only_what_changed_and_removal_leaves_nothing() {
    let _net = Net::new(0);
    let mut ruleset =
        Ruleset { services: [service(1, 2), service(2, 0)].into(), ..Ruleset::default() };
    let mut firewall = Firewall::install(settings(), &ruleset).unwrap();
    let listed = run("nft list map ip berth-test endpoint");
    assert!(listed.contains("10.42.0.10") && listed.contains("10.42.0.11"), "{listed}");
    assert!(run("nft list set ip berth-test refused").contains("10.43.0.2"));
    // People must be able to list everything with the tool they have.
    let all = run("nft list ruleset");
    assert!(all.contains("chain entering") && all.contains("@in-peer-port"), "{all}");
    assert_eq!(firewall.update(&ruleset).unwrap(), 0);
    ruleset.services.extend([service(1, 3)]);
    assert_eq!(firewall.update(&ruleset).unwrap(), 4);
    assert!(run("nft list map ip berth-test endpoint").contains("10.42.0.12"));
    // Installing again replaces whatever is there, as after a crash.
    drop(firewall);
    Firewall::install(settings(), &Ruleset::default()).unwrap();
    assert!(!run("nft list map ip berth-test endpoint").contains("10.42.0.12"));
    Firewall::remove(settings()).unwrap();
    assert!(!run("nft list tables").contains("berth-test"));
    Firewall::remove(settings()).unwrap();
}

#[test]
fn ten_thousand_services_cost_one_change_no_more_than_ten() {
    let _net = Net::new(0);
    let mut ruleset = Ruleset::default();
    for number in 0..10_000_u16 {
        let [high, low] = number.to_be_bytes();
        let frontend = Frontend {
            address: Ipv4Addr::new(10, 43, high, low),
            protocol: Protocol::Tcp,
            port: 80,
        };
        ruleset.services.insert(frontend, vec![Backend { address: pod(1), port: 80 }]);
    }
    let mut firewall = Firewall::install(settings(), &ruleset).unwrap();
    ruleset.services.extend([service(1, 2)]);
    assert_eq!(firewall.update(&ruleset).unwrap(), 6);
}

#[test]
fn a_refused_batch_changes_nothing_and_says_what_was_refused() {
    let _net = Net::new(0);
    let mut broken = settings();
    broken.table = "x".repeat(300);
    let error = Firewall::install(broken, &Ruleset::default()).unwrap_err();
    assert!(
        matches!(&error, FirewallError::Refused { purpose, .. } if purpose.starts_with("to create the table")),
        "{error:?}"
    );
    assert_eq!(run("nft list tables"), "");
}
