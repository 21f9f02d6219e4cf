//! The language and its libraries.

use berth_cel::{Authorizer, Budget, Decision, Form, Program, Question, Shape, Variables};
use serde_json::{Value, json};

fn object() -> Value {
    json!({
        "spec": {
            "replicas": 3,
            "name": "web",
            "list": [3, 1, 2],
            "names": ["a", "b"],
            "labels": {"app.kubernetes.io/name": "web", "tier": "front"},
            "foo-bar": 1,
            "namespace": "here",
            "size": "100Mi",
            "ports": [{"name": "http", "port": 80}, {"name": "https", "port": 443}],
            "nothing": null,
        }
    })
}

fn value(expression: &str) -> Value {
    let program = Program::compile(expression, &["self"]).unwrap();
    let object = object();
    let variables = Variables::new().with("self", &object["spec"]);
    program.json(&variables, &mut Budget::for_call()).unwrap()
}

fn failure(expression: &str) -> String {
    let program = Program::compile(expression, &["self"]).unwrap();
    let object = object();
    let variables = Variables::new().with("self", &object["spec"]);
    program.json(&variables, &mut Budget::for_call()).unwrap_err().to_string()
}

#[test]
fn conditions_hold() {
    for expression in [
        "self.replicas == 3 && self.name == 'web'",
        "self.replicas > 2.5",
        "has(self.name) && !has(self.missing)",
        "!has(self.labels.missing)",
        "self.list.all(x, x > 0) && self.list.exists(x, x == 2) && self.list.exists_one(x, x == 1)",
        "self.list.map(x, x * 2) == [6, 2, 4]",
        "self.list.map(x, x > 1, x * 2) == [6, 4]",
        "self.list.filter(x, x > 1).size() == 2",
        "self.list.sum() == 6 && self.list.max() == 3 && !self.list.isSorted()",
        "self.list.sortBy(x, -x) == [3, 2, 1]",
        "self.ports.sortBy(p, p.port)[0].name == 'http'",
        "self.list.all(i, x, i < 3 && x > 0)",
        "self.ports.transformMap(i, p, p.name) == {0: 'http', 1: 'https'}",
        "self.ports.transformMapEntry(i, p, {p.name: p.port})['http'] == 80",
        "self.list.transformList(i, x, i > 0, x) == [1, 2]",
        "self.labels.all(k, k.size() > 0)",
        "self.labels.exists(k, v, k == 'tier' && v == 'front')",
        "'app.kubernetes.io/name' in self.labels",
        "self.labels['tier'] == 'front'",
        "self.foo__dash__bar == 1 && self.__namespace__ == 'here'",
        "cel.bind(x, self.replicas * 2, x + x == 12)",
        "self.?missing.orValue('none') == 'none'",
        "self.?name.hasValue() && self.?name.value() == 'web'",
        "self[?'name'].optMap(n, n + '!').orValue('') == 'web!'",
        "self.list[?7].hasValue() == false",
        "optional.none().or(optional.of(1)).value() == 1",
        "[1, ?optional.none(), 2] == [1, 2]",
        "{'a': 1, ?'b': optional.none()} == {'a': 1}",
        "quantity(self.size).isLessThan(quantity('1Gi'))",
        "quantity('1k').compareTo(quantity('1000')) == 0",
        "isQuantity('10m') && !isQuantity('ten')",
        "ip('10.0.0.1').family() == 4 && cidr('10.0.0.0/8').containsIP('10.2.3.4')",
        "ip.isCanonical('::1') && isIP('1.2.3.4') && !isIP('x')",
        "url('https://a.example:80/x?y=z').getHost() == 'a.example:80' && isURL('https://x')",
        "semver('1.2.3').isLessThan(semver('2.0.0')) && isSemver('1.0.0')",
        "'abc 123'.find('[0-9]+') == '123' && 'a1b2'.findAll('[0-9]') == ['1', '2']",
        "'a1b2'.findAll('[0-9]', 1) == ['1']",
        "self.name.matches('^[a-z]+$') && self.name.startsWith('w') && self.name.endsWith('b')",
        "'%s has %d'.format(['web', 3]) == 'web has 3'",
        "sets.contains([1, 2], [1]) && sets.equivalent([1, 2], [2, 1]) && !sets.intersects([1], [2])",
        "['b', 'a'].join('-') == 'b-a' && 'a,b'.split(',') == ['a', 'b']",
        "'Ab'.lowerAscii() == 'ab' && ' a '.trim() == 'a' && 'abc'.replace('b', 'x') == 'axc'",
        "'abc'.substring(1) == 'bc' && 'abc'.charAt(1) == 'b' && 'héé'.size() == 3",
        "duration('1h') > duration('30m') && timestamp('2024-01-01T00:00:00Z').getFullYear() == 2024",
        "timestamp('2024-01-01T01:00:00Z') - timestamp('2024-01-01T00:00:00Z') == duration('1h')",
        "type(self.replicas) == int && type(self.name) == string && type(self.list) == list",
        "dyn(self.replicas) == 3 && int('3') == 3 && string(3) == '3' && double(3) == 3.0",
        "self.nothing == null",
        "!format.dns1123Label().validate('web').hasValue()",
        "format.dns1123Label().validate('W_b').hasValue()",
        "self.replicas == 3 || self.missing == 1",
        "self.missing == 1 || self.replicas == 3",
        "!(self.missing == 1 && self.replicas == 4)",
        "[1, 2].exists(x, x == 2 || self.missing)",
        "['x', 'y'].exists(x, self.names[5] == x || x == 'y')",
        "lists.range(3) == [0, 1, 2] && [[1], [2]].flatten() == [1, 2]",
        "math.greatest(1, 2) == 2 && base64.decode(base64.encode(b'x')) == b'x'",
        "self.replicas in [1, 2, 3] && 1 + 2 * 3 == 7 && 7 % 4 == 3 && -self.replicas == -3",
        "self.replicas > 1 ? self.name == 'web' : false",
    ] {
        assert_eq!(value(expression), json!(true), "{expression}");
    }
}

#[test]
fn failures_say_what_failed() {
    for (expression, message) in [
        ("self.missing == 1", "no such key: missing"),
        ("self.list[7] == 1", "index out of bounds: 7"),
        ("self.name.more == 1", "type 'string' does not support field selection"),
        ("1 / 0 == 1", "division by zero"),
        ("9223372036854775807 + 1 == 0", "integer overflow"),
        ("self.name > 1", "no such overload"),
        ("self.name + 1 == ''", "no such overload"),
        ("optional.none().value() == 1", "optional.none() dereference"),
        ("'a'.matches('(')", "the regular expression is invalid or too large"),
        ("self.names[5] == 'x' || false", "index out of bounds: 5"),
    ] {
        assert_eq!(failure(expression), message, "{expression}");
    }
}

#[test]
fn constructed_objects_are_json() {
    let built = value(
        "Object{metadata: Object.metadata{labels: {'a': 'b'}, ?annotations: optional.none()}, \
         spec: Object.spec{replicas: self.replicas + 1, foo__dash__bar: 2}}",
    );
    let expected =
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"replicas": 4, "foo-bar": 2}});
    assert_eq!(built, expected);
    let patch = value(
        "[JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('a/b'), value: 'x'}]",
    );
    assert_eq!(patch, json!([{"op": "add", "path": "/metadata/labels/a~1b", "value": "x"}]));
}

#[test]
fn errors_of_compilation_have_a_place() {
    let error = |expression: &str| Program::compile(expression, &["self"]).unwrap_err().to_string();
    assert!(
        error("self.x ==").starts_with("ERROR: <input>:1:10: Syntax error"),
        "{}",
        error("self.x ==")
    );
    assert_eq!(
        error("self.x == other"),
        "ERROR: <input>:1:11: undeclared reference to 'other' (in container '')"
    );
    assert_eq!(
        error("self.x.frobnicate()"),
        "ERROR: <input>:1:8: undeclared reference to 'frobnicate' (in container '')"
    );
    assert_eq!(
        error("[1].all(x, x > y)"),
        "ERROR: <input>:1:16: undeclared reference to 'y' (in container '')"
    );
    assert!(error("").starts_with("ERROR: <input>:1:1: "), "{}", error(""));
    assert!(Program::compile("self.x + 1", &["self"]).unwrap().uses("self"));
    assert!(!Program::compile("self.oldSelf", &["self"]).unwrap().uses("oldSelf"));
    let paths = Program::compile("self.a.b == 1 && self.c.all(x, x.d)", &["self"]).unwrap();
    assert_eq!(paths.selections("self"), [vec!["c".to_owned()], vec!["a".into(), "b".into()]]);
}

struct Typed;

impl Shape for Typed {
    fn form(&self) -> Form {
        Form::Plain
    }
    fn field(&self, name: &str) -> Option<&dyn Shape> {
        struct Of(Form);
        impl Shape for Of {
            fn form(&self) -> Form {
                self.0
            }
            fn field(&self, _: &str) -> Option<&dyn Shape> {
                None
            }
            fn element(&self) -> Option<&dyn Shape> {
                None
            }
        }
        match name {
            "at" => Some(&Of(Form::Moment)),
            "bytes" => Some(&Of(Form::Bytes)),
            "lasts" => Some(&Of(Form::Duration)),
            "ratio" => Some(&Of(Form::Fraction)),
            _ => None,
        }
    }
    fn element(&self) -> Option<&dyn Shape> {
        None
    }
}

#[test]
fn a_schema_gives_values_their_types() {
    let object = json!({"at": "2024-05-01T00:00:00Z", "bytes": "aGk=", "lasts": "90s", "ratio": 1});
    let variables = Variables::new().shaped("self", &object, &Typed).optional("oldSelf", None);
    for expression in [
        "self.at < timestamp('2025-01-01T00:00:00Z')",
        "self.bytes == b'hi'",
        "self.lasts == duration('1m30s')",
        "self.ratio + 0.5 == 1.5",
        "!oldSelf.hasValue()",
        "oldSelf.?at.orValue(self.at) == self.at",
    ] {
        let program = Program::compile(expression, &["self", "oldSelf"]).unwrap();
        assert_eq!(program.truth(&variables, &mut Budget::for_call()), Ok(true), "{expression}");
    }
    let program = Program::compile("[string(self.at), self.lasts]", &["self"]).unwrap();
    let json = program.json(&variables, &mut Budget::for_call()).unwrap();
    assert_eq!(json[0], "2024-05-01T00:00:00Z");
}

#[test]
fn programs_build_on_each_other() {
    let budget = &mut Budget::for_call();
    let mut variables = Variables::new().with("object", &json!({"a": 2}));
    let first = Program::compile("object.a * 2", &["object"]).unwrap();
    first.bind(&mut variables, "@v", budget).unwrap();
    variables.nest("variables", "double", "@v");
    let second = Program::compile("variables.double == 4", &["object", "variables"]).unwrap();
    assert!(second.truth(&variables, budget).unwrap());
    let text = Program::compile("'is ' + string(variables.double)", &["variables"]).unwrap();
    assert_eq!(text.text(&variables, budget).unwrap(), "is 4");
    assert_eq!(
        text.truth(&variables, budget).unwrap_err().to_string(),
        "the expression gives string, not bool"
    );
}

struct OnlyPods;

impl Authorizer for OnlyPods {
    fn request(&self) -> Question {
        Question { resource: "pods".into(), namespace: "here".into(), ..Question::default() }
    }
    fn decide(&self, question: &Question) -> Decision {
        let allowed = question.resource == "pods" && question.verb == "get";
        Decision {
            allowed,
            reason: format!("{} {}", question.verb, question.namespace),
            error: None,
        }
    }
}

#[test]
fn the_authorizer_is_asked() {
    let variables = Variables::new().authorized(&OnlyPods);
    for expression in [
        "authorizer.group('').resource('pods').namespace('x').check('get').allowed()",
        "!authorizer.group('').resource('secrets').check('get').allowed()",
        "authorizer.requestResource.check('get').allowed()",
        "authorizer.requestResource.check('list').reason() == 'list here'",
        "!authorizer.path('/healthz').check('get').allowed()",
        "!authorizer.serviceAccount('a', 'b').group('').resource('pods').check('watch').errored()",
    ] {
        let program = Program::compile(expression, &["authorizer"]).unwrap();
        assert_eq!(program.truth(&variables, &mut Budget::for_call()), Ok(true), "{expression}");
    }
}

#[test]
fn programs_are_shared_between_threads() {
    let program = std::sync::Arc::new(Program::compile("self.all(x, x > 0)", &["self"]).unwrap());
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let program = std::sync::Arc::clone(&program);
            std::thread::spawn(move || {
                let variables = Variables::new().with("self", &json!([1, 2, 3]));
                program.truth(&variables, &mut Budget::for_call()).unwrap()
            })
        })
        .collect();
    assert!(threads.into_iter().all(|thread| thread.join().unwrap()));
}
