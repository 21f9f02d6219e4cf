//! Which bindings are to be written, from those there are.

use std::fmt;

use serde_json::{Value, json};

/// The label of all bindings made here; its value tells people's from teams'.
pub const LABEL: &str = "berth.dev/access";
/// The label with the team's name.
const TEAM: &str = "berth.dev/team";
const GROUP: &str = "rbac.authorization.k8s.io";

/// Where a role holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In all namespaces and beyond.
    Everywhere,
    /// In one.
    Namespace(String),
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everywhere => out.write_str("everywhere"),
            Self::Namespace(name) => out.write_str(name),
        }
    }
}

/// Whether a binding is that of single people or of a team.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// Each person in it has the role alone.
    Person,
    /// The people in it are the team's members.
    Team(String),
}

/// A binding as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    pub name: String,
    pub place: Place,
    pub holder: Holder,
    pub role: String,
    /// User names, in order.
    pub subjects: Vec<String>,
    /// Of the object it was read from, if it exists.
    pub revision: Option<String>,
}

impl Binding {
    fn new(place: &Place, holder: &Holder, role: &str) -> Self {
        let name = match holder {
            Holder::Person => format!("berth:{role}"),
            Holder::Team(team) => format!("berth:team:{team}:{role}"),
        };
        Self {
            name,
            place: place.clone(),
            holder: holder.clone(),
            role: role.to_owned(),
            subjects: Vec::new(),
            revision: None,
        }
    }

    /// From a RoleBinding or ClusterRoleBinding.
    pub fn read(object: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let metadata = &object["metadata"];
        let place = match metadata["namespace"].as_str() {
            Some(namespace) => Place::Namespace(namespace.to_owned()),
            None => Place::Everywhere,
        };
        let holder = match metadata["labels"][TEAM].as_str() {
            Some(team) => Holder::Team(team.to_owned()),
            None => Holder::Person,
        };
        let subjects = object["subjects"].as_array().into_iter().flatten();
        Self {
            name: text(&metadata["name"]),
            place,
            holder,
            role: text(&object["roleRef"]["name"]),
            subjects: subjects.map(|subject| text(&subject["name"])).collect(),
            revision: metadata["resourceVersion"].as_str().map(str::to_owned),
        }
    }

    /// As a RoleBinding or ClusterRoleBinding.
    pub fn object(&self) -> Value {
        let kind = match &self.holder {
            Holder::Person => "user",
            Holder::Team(_) => "team",
        };
        let mut metadata = json!({"name": self.name, "labels": {LABEL: kind}});
        if let Holder::Team(team) = &self.holder {
            metadata["labels"][TEAM] = team.as_str().into();
        }
        if let Place::Namespace(namespace) = &self.place {
            metadata["namespace"] = namespace.as_str().into();
        }
        if let Some(revision) = &self.revision {
            metadata["resourceVersion"] = revision.as_str().into();
        }
        let subjects = self.subjects.iter();
        let subjects: Vec<Value> =
            subjects.map(|name| json!({"kind": "User", "apiGroup": GROUP, "name": name})).collect();
        json!({
            "metadata": metadata,
            "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": self.role},
            "subjects": subjects,
        })
    }

    /// `edit in shop`, for a sentence with "may".
    pub fn describe(&self) -> String {
        let place = match &self.place {
            Place::Everywhere => "everywhere".to_owned(),
            Place::Namespace(name) => format!("in `{name}`"),
        };
        match &self.holder {
            Holder::Person => format!("{} {place}", self.role),
            Holder::Team(team) => format!("{} {place} as team `{team}`", self.role),
        }
    }

    fn add(&mut self, users: &[String]) {
        for user in users {
            if !self.subjects.contains(user) {
                self.subjects.push(user.clone());
            }
        }
    }
}

/// The bindings to be written so that `users` have a role, or are members of a team. A team's new role is for all its
/// members, and a new member has all the team's roles.
///
/// # Errors
/// The sentence that says what is missing.
pub fn grant(
    known: &[Binding],
    holder: &Holder,
    role: Option<&str>,
    places: &[Place],
    users: &[String],
) -> Result<Vec<Binding>, String> {
    let own: Vec<&Binding> = known.iter().filter(|binding| binding.holder == *holder).collect();
    let is_team = *holder != Holder::Person;
    let mut all: Vec<String> = Vec::new();
    if is_team {
        let members = own.iter().flat_map(|binding| &binding.subjects);
        for user in members.chain(users) {
            if !all.contains(user) {
                all.push(user.clone());
            }
        }
    } else {
        all = users.to_vec();
    }
    let mut wanted: Vec<Binding> = Vec::new();
    match role {
        Some(_) if places.is_empty() => {
            return Err("it is not said where the role holds".to_owned());
        }
        Some(role) => {
            for place in places {
                let found = own.iter().find(|it| it.place == *place && it.role == role);
                wanted.push(
                    found.map_or_else(|| Binding::new(place, holder, role), |it| (*it).clone()),
                );
            }
        }
        None if !is_team => return Err("it is not said which role".to_owned()),
        None if !places.is_empty() => {
            return Err("it is not said which role the team has there".to_owned());
        }
        None if own.is_empty() => return Err("this team has no role yet".to_owned()),
        None => {}
    }
    if is_team {
        for binding in own {
            if !wanted.iter().any(|it| it.name == binding.name && it.place == binding.place) {
                wanted.push(binding.clone());
            }
        }
    }
    wanted.retain_mut(|binding| {
        let before = binding.subjects.len();
        binding.add(&all);
        binding.revision.is_none() || binding.subjects.len() > before
    });
    Ok(wanted)
}

/// The bindings to be written so that `users`, or the whole team, have no access any more, with whom each loses.
pub fn revoke(
    known: &[Binding],
    team: Option<&str>,
    namespaces: &[String],
    users: &[String],
) -> Vec<(Binding, Vec<String>)> {
    let meant = |binding: &&Binding| {
        let by_team = match team {
            Some(team) => binding.holder == Holder::Team(team.to_owned()),
            None => true,
        };
        let by_place = namespaces.is_empty()
            || matches!(&binding.place, Place::Namespace(name) if namespaces.contains(name));
        by_team && by_place
    };
    let change = |binding: &Binding| {
        let leaves = |user: &String| users.is_empty() || users.contains(user);
        let (gone, left): (Vec<_>, Vec<_>) = binding.subjects.iter().cloned().partition(leaves);
        (!gone.is_empty()).then(|| (Binding { subjects: left, ..binding.clone() }, gone))
    };
    known.iter().filter(meant).filter_map(change).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn shop() -> Place {
        Place::Namespace("shop".into())
    }

    /// As if it had been written and read again.
    fn stored(binding: &Binding) -> Binding {
        let mut object = binding.object();
        object["metadata"]["resourceVersion"] = "7".into();
        Binding::read(&object)
    }

    #[test]
    fn people_are_added_to_the_binding_of_their_role() {
        let first = grant(&[], &Holder::Person, Some("edit"), &[shop()], &names(&["ann"])).unwrap();
        assert_eq!((first.len(), first[0].name.as_str()), (1, "berth:edit"));
        assert_eq!(first[0].describe(), "edit in `shop`");
        let known = [stored(&first[0])];
        let second =
            grant(&known, &Holder::Person, Some("edit"), &[shop()], &names(&["bob"])).unwrap();
        assert_eq!(second[0].subjects, ["ann", "bob"]);
        assert_eq!(second[0].revision.as_deref(), Some("7"));
        let again =
            grant(&known, &Holder::Person, Some("edit"), &[shop()], &names(&["ann"])).unwrap();
        assert!(again.is_empty(), "what holds is not written again");
        let missing = grant(&known, &Holder::Person, Some("edit"), &[], &names(&["ann"]));
        assert!(missing.is_err());
        assert!(grant(&known, &Holder::Person, None, &[], &names(&["ann"])).is_err());
    }

    #[test]
    fn a_team_s_members_and_roles_belong_together() {
        let team = Holder::Team("devs".into());
        assert!(grant(&[], &team, None, &[], &names(&["ann"])).is_err());
        let first =
            grant(&[], &team, Some("view"), &[Place::Everywhere], &names(&["ann"])).unwrap();
        let known = [stored(&first[0])];
        let second = grant(&known, &team, Some("edit"), &[shop()], &names(&["bob"])).unwrap();
        let shown: Vec<_> = second
            .iter()
            .map(|it| format!("{}: {}", it.describe(), it.subjects.join(" ")))
            .collect();
        assert_eq!(
            shown,
            ["edit in `shop` as team `devs`: ann bob", "view everywhere as team `devs`: ann bob"]
        );
        let known: Vec<_> = second.iter().map(stored).collect();
        let third = grant(&known, &team, None, &[], &names(&["eve"])).unwrap();
        assert_eq!(third.len(), 2);
        assert!(third.iter().all(|it| it.subjects == ["ann", "bob", "eve"]));
    }

    #[test]
    fn what_is_revoked_is_what_was_said() {
        let team = Holder::Team("devs".into());
        let both = names(&["ann", "bob"]);
        let mut known = grant(&[], &team, Some("edit"), &[shop()], &both).unwrap();
        known.extend(
            grant(&[], &Holder::Person, Some("view"), &[Place::Everywhere], &both).unwrap(),
        );
        let known: Vec<_> = known.iter().map(stored).collect();
        let lost = |team: Option<&str>, spaces: &[&str], users: &[&str]| -> Vec<String> {
            let changed = revoke(&known, team, &names(spaces), &names(users));
            changed
                .into_iter()
                .map(|(it, gone)| format!("{} -{}", it.name, gone.join(",")))
                .collect()
        };
        assert_eq!(lost(None, &[], &["ann"]), ["berth:team:devs:edit -ann", "berth:view -ann"]);
        assert_eq!(lost(Some("devs"), &[], &["ann"]), ["berth:team:devs:edit -ann"]);
        assert_eq!(lost(Some("devs"), &[], &[]), ["berth:team:devs:edit -ann,bob"]);
        assert_eq!(lost(None, &["shop"], &["bob"]), ["berth:team:devs:edit -bob"]);
        assert!(lost(None, &[], &["eve"]).is_empty() && lost(Some("ops"), &[], &[]).is_empty());
    }
}
