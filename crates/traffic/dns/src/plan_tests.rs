//! Questions to an index that is filled by hand.

use berth_client::Key;
use serde_json::{Value, json};

use super::*;
use crate::facts;

const POD: &str = "10.244.0.7";

fn set_service(index: &mut Index, name: &str, spec: Value) {
    let service = serde_json::from_value(json!({"spec": spec})).unwrap();
    index.set_service(&Key::new("shop", name), Some(facts::of_service(&service)));
}

fn set_slice(index: &mut Index, name: &str, service: &str, endpoints: Value) {
    let slice = serde_json::from_value(json!({
        "metadata": {"labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "sql", "protocol": "TCP", "port": 5432}],
    }));
    index.set_slice(&Key::new("shop", name), facts::of_slice(&slice.unwrap()));
}

fn set_pod(index: &mut Index, name: &str, phase: &str, address: &str) {
    let pod = json!({"spec": {"containers": []}, "status": {"phase": phase, "podIP": address}});
    let pod = serde_json::from_value(pod).unwrap();
    index.set_pod(&Key::new("shop", name), facts::of_pod(&pod));
}

fn shop() -> Index {
    let mut index = Index::new(Name::from_ascii("cluster.local.").unwrap(), Vec::new());
    index.ready = true;
    let http = json!([{"name": "http", "protocol": "TCP", "port": 80}, {"port": 81}]);
    set_service(&mut index, "web", json!({"clusterIP": "10.96.0.20", "ports": http}));
    set_service(&mut index, "db", json!({"clusterIP": "None"}));
    set_service(&mut index, "empty", json!({"clusterIP": "None"}));
    let early = json!({"clusterIP": "None", "publishNotReadyAddresses": true});
    set_service(&mut index, "early", early);
    for (name, target) in [("out", "www.example.test"), ("in", "web.shop.svc.cluster.local")] {
        set_service(&mut index, name, json!({"type": "ExternalName", "externalName": target}));
    }
    set_service(
        &mut index,
        "loop",
        json!({"type": "ExternalName", "externalName": "loop.shop.svc.cluster.local"}),
    );
    let endpoints = json!([
        {"addresses": ["10.244.0.1"], "hostname": "db-0", "conditions": {"ready": true}},
        {"addresses": ["10.244.0.2"], "conditions": {}},
        {"addresses": ["10.244.0.3"], "hostname": "db-2", "conditions": {"ready": false}},
    ]);
    set_slice(&mut index, "db-1", "db", endpoints.clone());
    set_slice(&mut index, "early-1", "early", endpoints);
    set_pod(&mut index, "web-1", "Running", POD);
    index
}

/// Code, then answers in order, then other sections, each in one line.
fn ask(index: &Index, name: &str, kind: RecordType) -> String {
    ask_from(index, name, kind, POD)
}

fn ask_from(index: &Index, name: &str, kind: RecordType, from: &str) -> String {
    let text = |records: &[Record]| {
        // Aliases stay in front and in order; what is shuffled on purpose is sorted.
        let aliases = records.iter().take_while(|record| record.record_type() == RecordType::CNAME);
        let aliases = aliases.count();
        let mut lines: Vec<String> = records
            .iter()
            .map(|record| match &record.data {
                RData::SOA(_) => "soa".to_owned(),
                data => format!("{} {data}", record.name),
            })
            .collect();
        lines[aliases..].sort();
        lines
    };
    match plan(index, &Name::from_ascii(name).unwrap(), kind, from.parse().unwrap()) {
        Plan::Say(reply) => {
            let code = if reply.code == ResponseCode::NoError {
                Vec::new()
            } else {
                vec![format!("{:?}", reply.code)]
            };
            let sections = [&reply.answers, &reply.authorities, &reply.additionals];
            let all = sections.iter().flat_map(|records| text(records));
            code.into_iter().chain(all).collect::<Vec<_>>().join("; ")
        }
        Plan::Forward { name, aliases } => {
            let aliases = text(&aliases).into_iter();
            aliases.chain([format!("ask {name}")]).collect::<Vec<_>>().join("; ")
        }
    }
}

#[test]
fn a_service_has_its_address_whatever_the_case() {
    let index = shop();
    let answer = ask(&index, "Web.Shop.svc.cluster.local.", RecordType::A);
    assert_eq!(answer, "Web.Shop.svc.cluster.local. 10.96.0.20");
    assert_eq!(ask(&index, "web.shop.svc.cluster.local.", RecordType::AAAA), "soa");
    assert_eq!(ask(&index, "web.shop.svc.cluster.local.", RecordType::MX), "soa");
}

#[test]
fn no_such_name_is_told_from_no_such_record() {
    let index = shop();
    for absent in [
        "cache.shop",
        "x.web.shop",
        "_http._udp.web.shop",
        "_smtp._tcp.web.shop",
        "empty.shop",
        "web.else",
    ] {
        let name = format!("{absent}.svc.cluster.local.");
        assert_eq!(ask(&index, &name, RecordType::A), "NXDomain; soa", "{absent}");
    }
    for hollow in
        ["shop.svc.", "svc.", "pod.", "shop.pod.", "", "_tcp.web.shop.svc.", "_tcp.db.shop.svc."]
    {
        let name = format!("{hollow}cluster.local.");
        assert_eq!(ask(&index, &name, RecordType::A), "soa", "{hollow}");
    }
    assert_eq!(ask(&index, "else.svc.cluster.local.", RecordType::A), "NXDomain; soa");
}

#[test]
fn a_headless_service_has_its_ready_endpoints() {
    let index = shop();
    let owner = "db.shop.svc.cluster.local.";
    assert_eq!(
        ask(&index, owner, RecordType::A),
        format!("{owner} 10.244.0.1; {owner} 10.244.0.2")
    );
    assert_eq!(
        ask(&index, "db-0.db.shop.svc.cluster.local.", RecordType::A),
        "db-0.db.shop.svc.cluster.local. 10.244.0.1"
    );
    assert_eq!(
        ask(&index, "10-244-0-2.db.shop.svc.cluster.local.", RecordType::A),
        "10-244-0-2.db.shop.svc.cluster.local. 10.244.0.2"
    );
    assert_eq!(ask(&index, "db-2.db.shop.svc.cluster.local.", RecordType::A), "NXDomain; soa");
    assert_eq!(
        ask(&index, "db-2.early.shop.svc.cluster.local.", RecordType::A),
        "db-2.early.shop.svc.cluster.local. 10.244.0.3"
    );
}

#[test]
fn named_ports_have_targets_with_their_addresses() {
    let index = shop();
    assert_eq!(
        ask(&index, "_http._tcp.web.shop.svc.cluster.local.", RecordType::SRV),
        "_http._tcp.web.shop.svc.cluster.local. 0 100 80 web.shop.svc.cluster.local.; web.shop.svc.cluster.local. 10.96.0.20"
    );
    assert_eq!(
        ask(&index, "_sql._tcp.db.shop.svc.cluster.local.", RecordType::SRV),
        "_sql._tcp.db.shop.svc.cluster.local. 0 100 5432 10-244-0-2.db.shop.svc.cluster.local.; \
         _sql._tcp.db.shop.svc.cluster.local. 0 100 5432 db-0.db.shop.svc.cluster.local.; \
         10-244-0-2.db.shop.svc.cluster.local. 10.244.0.2; db-0.db.shop.svc.cluster.local. 10.244.0.1"
    );
    assert_eq!(ask(&index, "_http._tcp.web.shop.svc.cluster.local.", RecordType::A), "soa");
}

#[test]
fn addresses_have_names_and_the_clusters_never_leave_it() {
    let mut index = shop();
    let cases = [
        ("20.0.96.10", "20.0.96.10.in-addr.arpa. web.shop.svc.cluster.local."),
        ("21.0.96.10", "NXDomain; soa"),
        ("7.0.244.10", "NXDomain; soa"),
        ("0.244.10", "soa"),
        ("1.2.0.192", "ask 1.2.0.192.in-addr.arpa."),
        ("10", "ask 10.in-addr.arpa."),
        ("x.0.96.10", "ask x.0.96.10.in-addr.arpa."),
    ];
    for (name, answer) in cases {
        assert_eq!(ask(&index, &format!("{name}.in-addr.arpa."), RecordType::PTR), answer);
    }
    let both = ask(&index, "1.0.244.10.in-addr.arpa.", RecordType::PTR);
    assert!(both.contains("db-0.db.shop.svc") && both.contains("db-0.early.shop.svc"), "{both}");
    index.set_service(&Key::new("shop", "web"), None);
    assert_eq!(ask(&index, "20.0.96.10.in-addr.arpa.", RecordType::PTR), "NXDomain; soa");

    let mut index = Index::new(index.zone, vec![(Ipv4Addr::new(10, 64, 0, 0), 10)]);
    index.ready = true;
    assert_eq!(ask(&index, "1.0.127.10.in-addr.arpa.", RecordType::PTR), "NXDomain; soa");
    assert_eq!(
        ask(&index, "1.0.128.10.in-addr.arpa.", RecordType::PTR),
        "ask 1.0.128.10.in-addr.arpa."
    );
}

#[test]
fn an_external_name_is_an_alias_that_is_followed() {
    let index = shop();
    let owner = "out.shop.svc.cluster.local.";
    assert_eq!(
        ask(&index, owner, RecordType::A),
        format!("{owner} www.example.test.; ask www.example.test.")
    );
    assert_eq!(ask(&index, owner, RecordType::CNAME), format!("{owner} www.example.test."));
    assert_eq!(
        ask(&index, "in.shop.svc.cluster.local.", RecordType::A),
        "in.shop.svc.cluster.local. web.shop.svc.cluster.local.; web.shop.svc.cluster.local. 10.96.0.20"
    );
    assert_eq!(ask(&index, "loop.shop.svc.cluster.local.", RecordType::A), "ServFail");
}

#[test]
fn the_search_list_is_walked_for_those_who_have_it() {
    let index = shop();
    let first = |bare: &str| format!("{bare}.shop.svc.cluster.local.");
    let found = "web.shop.svc.cluster.local. 10.96.0.20";
    for (bare, answer) in [
        ("api.example.com", "api.example.com.; ask api.example.com."),
        ("web.shop", &format!("web.shop.svc.cluster.local.; {found}")),
        ("web.shop.svc", &format!("web.shop.svc.cluster.local.; {found}")),
        ("web.shop.svc.cluster.local", &format!("web.shop.svc.cluster.local.; {found}")),
    ] {
        assert_eq!(ask(&index, &first(bare), RecordType::A), format!("{} {answer}", first(bare)));
    }
    // One label stays here; a name of ours that is silent does, too; and so does what only looks like a namespace.
    for bare in ["example", "shop", "svc", "db-2.db"] {
        assert_eq!(ask(&index, &first(bare), RecordType::A), "NXDomain; soa", "{bare}");
    }
    let silent = format!("NXDomain; {} empty.shop.svc.cluster.local.; soa", first("empty.shop"));
    assert_eq!(ask(&index, &first("empty.shop"), RecordType::A), silent);
    let other = "a.example.com.else.svc.cluster.local.";
    assert_eq!(ask(&index, other, RecordType::A), "NXDomain; soa");
}

#[test]
fn a_pod_of_another_namespace_has_another_search_list() {
    let mut index = shop();
    let pod = json!({"spec": {"containers": []}, "status": {"podIP": "10.244.0.8"}});
    let pod = serde_json::from_value(pod).unwrap();
    index.set_pod(&Key::new("blog", "one"), facts::of_pod(&pod));
    let name = "a.example.com.shop.svc.cluster.local.";
    assert_eq!(ask_from(&index, name, RecordType::A, "10.244.0.8"), "NXDomain; soa");
    assert!(ask_from(&index, name, RecordType::A, "192.0.2.1").ends_with("ask a.example.com."));
}

#[test]
fn an_address_goes_to_the_pod_that_has_it_now() {
    let mut index = shop();
    let name = "10-244-0-7.shop.pod.cluster.local.";
    assert_eq!(ask(&index, name, RecordType::A), format!("{name} 10.244.0.7"));
    set_pod(&mut index, "web-2", "Running", POD);
    set_pod(&mut index, "web-1", "Succeeded", POD);
    assert_eq!(ask(&index, name, RecordType::A), format!("{name} 10.244.0.7"));
    index.set_pod(&Key::new("shop", "web-2"), None);
    assert_eq!(ask(&index, name, RecordType::A), "NXDomain; soa");
}

#[test]
fn endpoints_follow_their_slices() {
    let mut index = shop();
    let name = "db.shop.svc.cluster.local.";
    set_slice(&mut index, "db-1", "empty", json!([{"addresses": ["10.244.0.1"]}]));
    assert_eq!(ask(&index, name, RecordType::A), "NXDomain; soa");
    assert_eq!(
        ask(&index, "empty.shop.svc.cluster.local.", RecordType::A),
        "empty.shop.svc.cluster.local. 10.244.0.1"
    );
    index.set_slice(&Key::new("shop", "db-1"), None);
    assert_eq!(ask(&index, "empty.shop.svc.cluster.local.", RecordType::A), "NXDomain; soa");
}

#[test]
fn nothing_is_denied_before_the_first_list_is_in() {
    let mut index = shop();
    index.ready = false;
    assert_eq!(ask(&index, "cache.shop.svc.cluster.local.", RecordType::A), "ServFail");
    assert_eq!(ask(&index, "example.com.", RecordType::A), "ask example.com.");
}

#[test]
fn names_with_a_fixed_meaning() {
    let index = shop();
    assert_eq!(ask(&index, "localhost.", RecordType::A), "localhost. 127.0.0.1");
    assert_eq!(
        ask(&index, "dns-version.cluster.local.", RecordType::TXT),
        "dns-version.cluster.local. 1.1.0"
    );
    assert_eq!(ask(&index, "cluster.local.", RecordType::SOA), "soa");
}
