//! What the README promises, run as a user would: the real binary, kubectl, real Redis and PostgreSQL.

mod abuse;
mod account;
mod backup;
mod bad_input;
mod crash;
mod debug;
mod devices;
mod engines;
mod etcd;
mod fields;
mod full_disk;
mod helm;
mod hostile;
mod lifecycle;
mod older;
mod people;
mod pressure;
mod reboot;
mod servers;
mod single;
mod static_pods;
mod streams;
mod top;
mod volumes;
mod votes;
