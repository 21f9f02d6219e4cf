//! The names of all functions, and the call of those that `kube-cel` has.

use std::sync::LazyLock;

use kube_cel::KubeCelExt;
use kube_cel::cel::common::ast::{CallExpr, Expr};
use kube_cel::cel::objects::Value;
use kube_cel::cel::{Context, ExecutionError, IdedExpr};

/// What `kube-cel` and `cel` answer, called by name.
const LIBRARY: &[&str] = &[
    "add",
    "asApproximateFloat",
    "asInteger",
    "base64.decode",
    "base64.encode",
    "bytes",
    "charAt",
    "cidr",
    "compareTo",
    "containsCIDR",
    "containsIP",
    "distinct",
    "double",
    "duration",
    "family",
    "first",
    "flatten",
    "format",
    "format.byte",
    "format.date",
    "format.datetime",
    "format.dns1035Label",
    "format.dns1035LabelPrefix",
    "format.dns1123Label",
    "format.dns1123LabelPrefix",
    "format.dns1123Subdomain",
    "format.dns1123SubdomainPrefix",
    "format.labelValue",
    "format.named",
    "format.qualifiedName",
    "format.uri",
    "format.uuid",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getEscapedPath",
    "getFullYear",
    "getHost",
    "getHostname",
    "getHours",
    "getMilliseconds",
    "getMinutes",
    "getMonth",
    "getPort",
    "getQuery",
    "getScheme",
    "getSeconds",
    "indexOf",
    "int",
    "ip",
    "ip.isCanonical",
    "isCIDR",
    "isCIDRv4",
    "isCIDRv6",
    "isGlobalUnicast",
    "isGreaterThan",
    "isIP",
    "isIPv4",
    "isIPv6",
    "isInteger",
    "isLessThan",
    "isLinkLocalMulticast",
    "isLinkLocalUnicast",
    "isLoopback",
    "isQuantity",
    "isSemver",
    "isSorted",
    "isURL",
    "isUnspecified",
    "join",
    "jsonpatch.escapeKey",
    "last",
    "lastIndexOf",
    "lists.range",
    "lowerAscii",
    "major",
    "masked",
    "math.abs",
    "math.bitAnd",
    "math.bitNot",
    "math.bitOr",
    "math.bitShiftLeft",
    "math.bitShiftRight",
    "math.bitXor",
    "math.ceil",
    "math.floor",
    "math.greatest",
    "math.isFinite",
    "math.isInf",
    "math.isNaN",
    "math.least",
    "math.round",
    "math.sign",
    "math.sqrt",
    "math.trunc",
    "max",
    "min",
    "minor",
    "patch",
    "prefixLength",
    "quantity",
    "replace",
    "reverse",
    "semver",
    "sets.contains",
    "sets.equivalent",
    "sets.intersects",
    "sign",
    "slice",
    "sort",
    "split",
    "string",
    "strings.quote",
    "sub",
    "substring",
    "sum",
    "timestamp",
    "trim",
    "uint",
    "upperAscii",
    "url",
    "validate",
];

/// What the evaluator answers itself.
const OWN: &[&str] = &[
    "all",
    "allowed",
    "cel.bind",
    "check",
    "contains",
    "dyn",
    "endsWith",
    "error",
    "errored",
    "exists",
    "existsOne",
    "exists_one",
    "fieldSelector",
    "find",
    "findAll",
    "group",
    "hasValue",
    "labelSelector",
    "matches",
    "name",
    "namespace",
    "optFlatMap",
    "optMap",
    "optional.none",
    "optional.of",
    "optional.ofNonZeroValue",
    "or",
    "orValue",
    "path",
    "reason",
    "resource",
    "serviceAccount",
    "size",
    "sortBy",
    "startsWith",
    "subresource",
    "transformList",
    "transformMap",
    "transformMapEntry",
    "type",
    "value",
];

/// Names that stand for types.
const TYPES: &[&str] = &[
    "bool",
    "bytes",
    "double",
    "int",
    "list",
    "map",
    "null_type",
    "string",
    "type",
    "uint",
    "optional_type",
];

pub(crate) fn is_type(name: &str) -> bool {
    TYPES.contains(&name)
}

pub(crate) fn is_function(name: &str) -> bool {
    // Operators are calls, too, with names no identifier has.
    LIBRARY.contains(&name)
        || OWN.contains(&name)
        || !name.starts_with(|c: char| c.is_ascii_alphabetic())
}

/// How many of the first arguments of a call are names it binds.
pub(crate) fn bound(prefix: Option<&str>, function: &str, arguments: usize) -> usize {
    match (prefix, function, arguments) {
        (Some("cel"), "bind", 3) | (None, "optMap" | "optFlatMap" | "sortBy", 2) => 1,
        (None, "all" | "exists" | "exists_one" | "existsOne", 3)
        | (None, "transformList" | "transformMap" | "transformMapEntry", 3 | 4) => 2,
        _ => 0,
    }
}

static CONTEXT: LazyLock<Context<'static>> = LazyLock::new(|| Context::default().with_all());

/// Calls a function of the library with values.
pub(crate) fn call(
    prefix: Option<&str>,
    function: &str,
    target: Option<Value>,
    arguments: Vec<Value>,
) -> Result<Value, ExecutionError> {
    let mut scope = CONTEXT.new_inner_scope();
    let name = |name: String| IdedExpr { id: 0, expr: Expr::Ident(name) };
    let target = match (prefix, target) {
        (Some(prefix), _) => Some(Box::new(name(prefix.to_owned()))),
        (None, Some(value)) => {
            scope.add_variable_from_value("@target", value);
            Some(Box::new(name("@target".to_owned())))
        }
        (None, None) => None,
    };
    let mut args = Vec::with_capacity(arguments.len());
    for (number, value) in arguments.into_iter().enumerate() {
        let variable = format!("@{number}");
        scope.add_variable_from_value(variable.as_str(), value);
        args.push(name(variable));
    }
    let utc = function == "string" && args.len() + usize::from(target.is_some()) == 1;
    let expr = Expr::Call(CallExpr { func_name: function.to_owned(), target, args });
    let expression = IdedExpr { id: 0, expr };
    // Arithmetic in there is not all checked.
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        Value::resolve(&expression, &scope)
    }));
    match outcome {
        // A moment in UTC ends with the letter, as everywhere in the API.
        Ok(Ok(Value::String(text))) if utc && text.ends_with("+00:00") && text.len() >= 25 => {
            Ok(Value::String(format!("{}Z", &text[..text.len() - 6]).into()))
        }
        Ok(outcome) => outcome,
        Err(_) => Err(ExecutionError::function_error(function, "the arguments are out of range")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_the_library_is_known_to_it() {
        for name in LIBRARY {
            let (prefix, function) = match name.split_once('.') {
                Some((prefix, function)) => (Some(prefix), function),
                None => (None, *name),
            };
            let outcome = call(prefix, function, None, Vec::new());
            let missing = matches!(&outcome, Err(ExecutionError::UndeclaredReference(_)));
            assert!(!missing, "{name}: {outcome:?}");
        }
    }
}
