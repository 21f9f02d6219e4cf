//! Tables, as `kubectl get` shows them.

use berth_objects::{Column, Object, Resource};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::output::partial;

/// How much of the object goes with each row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Include {
    Nothing,
    Metadata,
    Object,
}

impl Include {
    pub fn parse(text: &str) -> Self {
        match text {
            "None" => Self::Nothing,
            "Object" => Self::Object,
            _ => Self::Metadata,
        }
    }
}

/// Events are known by what they are about; their own names come last.
fn name_is_last(resource: &Resource) -> bool {
    resource.kind == "Event"
}

fn columns(known: &[Column], name_is_last: bool) -> Vec<Value> {
    let column = |name: &str, kind: &str, format: &str, wide: bool| {
        json!({"name": name, "type": kind, "format": format, "description": name,
            "priority": i32::from(wide)})
    };
    let name = column("Name", "string", "name", name_is_last);
    let mut columns: Vec<_> =
        known.iter().map(|known| column(known.name, known.kind, "", known.wide)).collect();
    columns.insert(if name_is_last { columns.len() } else { 0 }, name);
    columns
}

fn row(resource: &Resource, object: Value, include: Include, now: Timestamp) -> Value {
    let mut cells = resource.cells_of(&object, now);
    let place = if name_is_last(resource) { cells.len() } else { 0 };
    cells.insert(place, object.name().into());
    with_cells(cells, object, include)
}

fn with_cells(cells: Vec<Value>, object: Value, include: Include) -> Value {
    match include {
        Include::Nothing => json!({"cells": cells}),
        Include::Metadata => json!({"cells": cells, "object": partial(object)}),
        Include::Object => json!({"cells": cells, "object": object}),
    }
}

fn table(columns: Vec<Value>, metadata: Value, rows: Vec<Value>) -> Value {
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": columns,
        "rows": rows,
    })
}

fn columns_of(resource: &Resource) -> Vec<Value> {
    columns(resource.columns, name_is_last(resource))
}

/// One object with cells of its own after the name.
pub(crate) fn of_cells(
    known: &[Column],
    mut cells: Vec<Value>,
    object: Value,
    include: Include,
) -> Value {
    cells.insert(0, object.name().into());
    let metadata = json!({"resourceVersion": object.resource_version()});
    table(columns(known, false), metadata, vec![with_cells(cells, object, include)])
}

pub(crate) fn of_object(
    resource: &Resource,
    object: Value,
    include: Include,
    now: Timestamp,
) -> Value {
    let metadata = json!({"resourceVersion": object.resource_version()});
    table(columns_of(resource), metadata, vec![row(resource, object, include, now)])
}

pub(crate) fn of_list(
    resource: &Resource,
    items: Vec<Value>,
    metadata: Value,
    include: Include,
    now: Timestamp,
) -> Value {
    let rows = items.into_iter().map(|item| row(resource, item, include, now)).collect();
    table(columns_of(resource), metadata, rows)
}
