//! `berth access`: who may do what, in one command each: give, list, take away.
//!
//! A person is a user name in bindings, proved by a client certificate; a team is a set of bindings whose subjects are its
//! members. Teams are not put into certificates: those cannot be taken back, while a name in a binding can.

mod kubeconfig;
mod plan;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, RoleBinding};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client};

use crate::failure::{Asking, Doing, Failure};
use crate::screen;
use crate::session::Session;
use crate::table::table;
use plan::{Binding, Holder, Place};

/// What to do about access.
#[derive(Debug, Subcommand)]
pub enum AccessCommand {
    /// Give people a role, alone or as a team, and make a kubeconfig for each
    Grant(GrantArguments),
    /// List who has been given what
    #[command(visible_alias = "ls")]
    List,
    /// Take access away from people or a whole team
    Revoke(RevokeArguments),
}

/// What people may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// See everything but Secrets
    View,
    /// Change applications
    Edit,
    /// And give access within the namespaces
    Admin,
    /// Everything, everywhere
    ClusterAdmin,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Edit => "edit",
            Self::Admin => "admin",
            Self::ClusterAdmin => "cluster-admin",
        }
    }
}

/// Flags of `berth access grant`.
#[derive(Debug, Args)]
pub struct GrantArguments {
    /// Names of the people
    #[arg(required = true, value_name = "USER", value_parser = person)]
    pub users: Vec<String>,
    /// Make them members of this team, which has the role as a whole
    #[arg(long, value_name = "TEAM", value_parser = team)]
    pub team: Option<String>,
    /// What they may do; may be left out for a team that has a role already
    #[arg(long, value_enum)]
    pub role: Option<Role>,
    /// Where; may be repeated
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Vec<String>,
    /// In all namespaces, and in what belongs to none
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub all_namespaces: bool,
    /// Write the kubeconfig to this file, or those of several people into this directory; otherwise it is printed
    #[arg(short, long, value_name = "PATH")]
    pub output: Option<PathBuf>,
    /// How long the kubeconfig is good: `90d`, `12h`; a year at most
    #[arg(long, default_value = "90d", value_name = "TIME", value_parser = crate::arguments::duration)]
    pub valid: Duration,
    /// The server's URL in the kubeconfig, where people reach it under another one
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,
}

/// Flags of `berth access revoke`.
#[derive(Debug, Args)]
pub struct RevokeArguments {
    /// Names of the people; none with `--team` means the whole team
    #[arg(value_name = "USER", required_unless_present = "team")]
    pub users: Vec<String>,
    /// Only what they have as members of this team
    #[arg(long, value_name = "TEAM")]
    pub team: Option<String>,
    /// Only in this namespace; may be repeated
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Vec<String>,
}

/// Names of the system's own users and groups begin with `system:`; nobody is made one of them here.
fn person(text: &str) -> Result<String, String> {
    let good = !text.is_empty()
        && text.len() <= 64
        && !text.starts_with("system:")
        && !text.chars().any(|letter| letter.is_control() || "/%\"\\ ".contains(letter));
    if good {
        Ok(text.to_owned())
    } else {
        Err("write a name of at most 64 letters without `/`, `%`, quotes and spaces, which does not begin with `system:`".into())
    }
}

fn team(text: &str) -> Result<String, String> {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let good = (1..=50).contains(&text.len())
        && text.bytes().all(|byte| inner(byte) || byte == b'-')
        && text.bytes().next().is_some_and(inner)
        && text.bytes().last().is_some_and(inner);
    if good { Ok(text.to_owned()) } else { Err("write lower-case letters, digits and `-`".into()) }
}

/// Does what is said about access.
pub async fn access(command: AccessCommand, data: &Path) -> Result<u8, Failure> {
    let session = Session::join(data).await?;
    match command {
        AccessCommand::Grant(arguments) => grant(arguments, data, &session.client).await,
        AccessCommand::List => list(&session.client).await,
        AccessCommand::Revoke(arguments) => revoke(&arguments, &session.client).await,
    }
}

async fn grant(arguments: GrantArguments, data: &Path, client: &Client) -> Result<u8, Failure> {
    let to_many = arguments.users.len() > 1 && arguments.output.is_none();
    if to_many {
        return Err(Failure::usage("the kubeconfigs of several people need a directory")
            .hint("add `--output DIRECTORY`"));
    }
    let known = bindings(client).await?;
    let places = places(&arguments, client).await?;
    let holder = match &arguments.team {
        Some(team) => Holder::Team(team.clone()),
        None => Holder::Person,
    };
    let role = arguments.role.map(Role::name);
    let wanted = plan::grant(&known, &holder, role, &places, &arguments.users).map_err(|why| {
        Failure::usage(why).hint("say `--role` and `--namespace`, or `--all-namespaces`")
    })?;
    for binding in wanted {
        write(client, &binding).await?;
        screen::note(format!("{} may {}", binding.subjects.join(", "), binding.describe()));
    }
    let server = kubeconfig::Server::of(data, arguments.server.as_deref())?;
    for user in &arguments.users {
        let text = kubeconfig::make(client, &server, user, arguments.valid).await?;
        match &arguments.output {
            None => screen::line(text.trim_end()),
            Some(path) => {
                let path = if arguments.users.len() > 1 {
                    std::fs::create_dir_all(path)
                        .doing(format!("cannot make the directory `{}`", path.display()))?;
                    path.join(format!("{user}.kubeconfig"))
                } else {
                    path.clone()
                };
                kubeconfig::write(&path, &text)?;
                screen::line(path.display());
            }
        }
    }
    if server.is_local() {
        screen::note(
            "hint: this server listens for this machine only; `berth serve --listen` says where else, and `--server` what the kubeconfig says",
        );
    }
    Ok(0)
}

/// Where access is given. Every namespace has to be there: a name that is misspelt would give nothing.
async fn places(arguments: &GrantArguments, client: &Client) -> Result<Vec<Place>, Failure> {
    if arguments.all_namespaces || arguments.role == Some(Role::ClusterAdmin) {
        if !arguments.namespace.is_empty() {
            return Err(Failure::usage("`cluster-admin` is not for single namespaces")
                .hint("`--role admin` gives everything within a namespace"));
        }
        return Ok(vec![Place::Everywhere]);
    }
    let api: Api<Namespace> = Api::all(client.clone());
    for name in &arguments.namespace {
        if api.get_opt(name).await.asking("cannot look for the namespace")?.is_none() {
            return Err(Failure::new(format!("there is no namespace `{name}`"))
                .hint(format!("`berth up` makes one for each application, `kubectl create namespace {name}` an empty one")));
        }
    }
    Ok(arguments.namespace.iter().cloned().map(Place::Namespace).collect())
}

/// All bindings that were made here.
async fn bindings(client: &Client) -> Result<Vec<Binding>, Failure> {
    let parameters = ListParams::default().labels(plan::LABEL);
    let inside: Api<RoleBinding> = Api::all(client.clone());
    let everywhere: Api<ClusterRoleBinding> = Api::all(client.clone());
    let what = "cannot list who has access";
    let mut found = Vec::new();
    for object in everywhere.list(&parameters).await.asking(what)? {
        found.push(Binding::read(&serde_json::to_value(object).doing(what)?));
    }
    for object in inside.list(&parameters).await.asking(what)? {
        found.push(Binding::read(&serde_json::to_value(object).doing(what)?));
    }
    found.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(found)
}

/// Creates or replaces a binding; deletes one that nobody is left in.
async fn write(client: &Client, binding: &Binding) -> Result<(), Failure> {
    let what = format!("cannot write who may {}", binding.describe());
    let object = binding.object();
    match &binding.place {
        Place::Everywhere => {
            let api: Api<ClusterRoleBinding> = Api::all(client.clone());
            let object = serde_json::from_value(object).doing(&what)?;
            put(&api, binding, object).await.asking(what)
        }
        Place::Namespace(namespace) => {
            let api: Api<RoleBinding> = Api::namespaced(client.clone(), namespace);
            let object = serde_json::from_value(object).doing(&what)?;
            put(&api, binding, object).await.asking(what)
        }
    }
}

async fn put<K>(api: &Api<K>, binding: &Binding, object: K) -> Result<(), kube::Error>
where
    K: Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
{
    let parameters = PostParams::default();
    match (&binding.revision, binding.subjects.is_empty()) {
        (_, true) => api.delete(&binding.name, &DeleteParams::default()).await.map(drop),
        (None, false) => api.create(&parameters, &object).await.map(drop),
        (Some(_), false) => api.replace(&binding.name, &parameters, &object).await.map(drop),
    }
}

async fn list(client: &Client) -> Result<u8, Failure> {
    let mut rows = Vec::new();
    for binding in bindings(client).await? {
        for subject in &binding.subjects {
            let team = match &binding.holder {
                Holder::Team(team) => team.clone(),
                Holder::Person => String::new(),
            };
            rows.push(vec![subject.clone(), team, binding.role.clone(), binding.place.to_string()]);
        }
    }
    rows.sort();
    screen::line(table(&["USER", "TEAM", "ROLE", "WHERE"], &rows));
    Ok(0)
}

async fn revoke(arguments: &RevokeArguments, client: &Client) -> Result<u8, Failure> {
    let known = bindings(client).await?;
    let changed =
        plan::revoke(&known, arguments.team.as_deref(), &arguments.namespace, &arguments.users);
    if changed.is_empty() {
        let who = match (&arguments.team, arguments.users.as_slice()) {
            (Some(team), []) => format!("the team `{team}`"),
            (_, users) => users.join(", "),
        };
        return Err(Failure::new(format!("{who} has no such access"))
            .hint("`berth access list` shows who has what"));
    }
    for (binding, gone) in changed {
        write(client, &binding).await?;
        screen::line(format!("{} may no longer {}", gone.join(", "), binding.describe()));
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_becomes_the_system() {
        for good in ["ann", "ann@example.com", "Ann.B"] {
            assert!(person(good).is_ok(), "{good}");
        }
        for bad in ["", "system:masters", "a/b", "a b", "a\"b", "a\nb"] {
            assert!(person(bad).is_err(), "{bad:?}");
        }
        assert!(team("devs-2").is_ok() && team("-x").is_err() && team("A").is_err());
    }
}
