//! The identities of the controllers: each is a service account of its own, with a role that fits.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use kube::Client;

type Make = dyn Fn(&str) -> Client + Send + Sync;

/// Clients by the names of service accounts in `kube-system`. Clones are the same.
#[derive(Clone)]
pub(crate) struct Accounts {
    make: Arc<Make>,
    made: Arc<Mutex<HashMap<String, Client>>>,
}

impl Accounts {
    pub fn new(make: impl Fn(&str) -> Client + Send + Sync + 'static) -> Self {
        Self { make: Arc::new(make), made: Arc::default() }
    }

    /// The client of an account. Each is made once: a client has a task of its own.
    pub fn client(&self, name: &str) -> Client {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.entry(name.to_owned()).or_insert_with(|| (self.make)(name)).clone()
    }
}
