//! Expressions that would never end, or take all memory, end with an error.

use std::time::{Duration, Instant};

use berth_cel::{Budget, CompileError, EvaluateError, Program, Variables};
use serde_json::{Value, json};

fn run(expression: &str, object: &Value) -> (Result<Value, EvaluateError>, Duration) {
    let program = Program::compile(expression, &["self"]).unwrap();
    let variables = Variables::new().with("self", object);
    let start = Instant::now();
    let outcome = program.json(&variables, &mut Budget::for_call());
    (outcome, start.elapsed())
}

#[test]
fn work_is_bounded() {
    let many: Vec<u32> = (0..1_000_000).collect();
    let text = "a".repeat(1_000_000);
    let object = json!({"list": many, "text": text, "few": (0..1000).collect::<Vec<u32>>()});
    for expression in [
        "self.list.all(a, self.list.all(b, a + b >= 0))",
        "self.list.exists(a, self.list.exists(b, a == -1))",
        "self.few.all(a, self.few.all(b, self.few.all(c, self.text.contains('b') || true)))",
        "self.few.map(a, self.text + self.text).size() > 0",
        "self.few.map(a, self.few.map(b, self.few)).size() > 0",
        "self.few.all(a, self.text.matches('(a|aa)+b$') || true)",
        "self.few.all(a, self.few.all(b, 'x'.matches('\\\\pL{100}' + string(b)) || true))",
        "self.few.all(a, self.list == self.list)",
        "self.few.all(a, 999999 in self.list)",
        "lists.range(1000000000).size() > 0",
        "self.text.replace('', self.text).size() > 0",
        "self.few.map(a, self.text).join(self.text).size() > 0",
        "sets.intersects(self.list, self.list)",
        "self.few.all(a, self.few.distinct().size() > 0)",
        "'%.999999999f'.format([1.0]) == ''",
        "quantity('1e999999999').isGreaterThan(quantity('1'))",
        "self.text.split('').size() > 0 && self.few.all(a, self.text.split('').size() > 0)",
        "self.list.all(a, cel.bind(x, self.list, x.all(y, y < 0 || true)))",
        "self.few.transformMap(i, v, self.few.transformMap(j, w, self.few)).size() > 0",
        "self.few.sortBy(a, self.few.sortBy(b, self.few.sortBy(c, c)).size()).size() > 0",
        "self.list.map(a, a).map(a, a).map(a, a).map(a, a).size() > 0",
    ] {
        let (outcome, took) = run(expression, &object);
        assert!(outcome.is_err(), "{expression}: {outcome:?}");
        assert!(took < Duration::from_secs(20), "{expression} took {took:?}");
    }
}

#[test]
fn a_failed_budget_is_not_absorbed() {
    let object = json!((0..2000).collect::<Vec<u32>>());
    let (outcome, _) = run("true || self.all(a, true)", &object);
    assert_eq!(outcome, Ok(json!(true)));
    let (outcome, _) = run("self.all(a, self.all(b, true)) || true", &object);
    assert_eq!(outcome, Err(EvaluateError::TooMuch));
}

#[test]
fn ordinary_work_fits() {
    let object = json!({"items": (0..2000).map(|n| json!({"name": format!("n{n}"), "port": n}))
        .collect::<Vec<_>>()});
    let (outcome, _) = run(
        "self.items.all(x, x.port >= 0 && x.name.startsWith('n')) && \
         self.items.map(x, x.name).size() == self.items.filter(x, x.port >= 0).size()",
        &object,
    );
    assert_eq!(outcome, Ok(json!(true)));
    let few = json!((0..64).collect::<Vec<u32>>());
    let (outcome, _) = run("self.all(a, self.exists_one(b, a == b))", &few);
    assert_eq!(outcome, Ok(json!(true)));
}

#[test]
fn expressions_are_bounded_in_size_and_depth() {
    let long = format!("self == '{}'", "a".repeat(20_000));
    assert_eq!(Program::compile(&long, &["self"]).unwrap_err(), CompileError::TooLong);
    for (open, middle, close, times) in [
        ("(", "1", ")", 7000),
        ("[", "1", "]", 7000),
        ("!", "true", "", 15_000),
        ("-", "1", "", 15_000),
        ("1+", "1", "", 8000),
        ("true ? 1 : ", "1", "", 1000),
        ("self.all(x, ", "true", ")", 1000),
        ("", "self", ".a", 8000),
        ("", "self", "[0]", 5000),
        ("{1:", "1", "}", 4000),
        ("'(' + ", "'('", "", 2500),
        ("\"\\\"(\" + ", "''", "", 1500),
    ] {
        let text = format!("{}{middle}{}", open.repeat(times), close.repeat(times));
        let start = Instant::now();
        let outcome = Program::compile(&text, &["self"]);
        // Runs of signs may be folded by the parser; what is accepted must be evaluated without harm.
        if let Ok(program) = outcome {
            let variables = Variables::new().with("self", &json!(1));
            drop(program.json(&variables, &mut Budget::for_call()));
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{open}: {:?}", start.elapsed());
    }
}

#[test]
fn what_is_deep_but_allowed_is_evaluated() {
    let nested = format!("{}true{}", "[1].all(x, ".repeat(20), ")".repeat(20));
    assert_eq!(run(&nested, &json!(1)).0, Ok(json!(true)));
    let sum = format!("{}1 == 101", "1 + ".repeat(100));
    assert_eq!(run(&sum, &json!(1)).0, Ok(json!(true)));
    let ands = format!("{}true", "self == 1 && ".repeat(400));
    assert_eq!(run(&ands, &json!(1)).0, Ok(json!(true)));
}
