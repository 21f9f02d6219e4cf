//! An API server that lists what the test gave it, and goes away when told to.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::StreamBody;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::watch;

type Frames = stream::BoxStream<'static, Result<Frame<Bytes>, std::io::Error>>;

/// What is there. Every change ends all watches, so that clients list again.
#[derive(Clone)]
pub struct Api {
    state: Arc<Mutex<State>>,
    turns: watch::Sender<u64>,
}

struct State {
    away: bool,
    services: Vec<Value>,
    refused: usize,
}

pub fn service(name: &str, address: &str) -> Value {
    json!({"metadata": {"namespace": "shop", "name": name, "uid": name}, "spec": {"clusterIP": address}})
}

impl Api {
    pub fn new(services: Vec<Value>) -> Self {
        let state = State { away: false, services, refused: 0 };
        Self { state: Arc::new(Mutex::new(state)), turns: watch::Sender::new(1) }
    }

    pub fn client(&self) -> kube::Client {
        let api = self.clone();
        kube::Client::new(
            tower::service_fn(move |request: Request<Body>| {
                let response = api.respond(&request);
                async move { Ok::<_, std::io::Error>(response) }
            }),
            "default",
        )
    }

    /// Ends all watches and refuses everything from now on; returns once clients have noticed.
    pub async fn leave(&self) {
        self.state.lock().unwrap().away = true;
        self.turns.send_modify(|turn| *turn += 1);
        while self.state.lock().unwrap().refused < 4 {
            tokio::task::yield_now().await;
        }
    }

    pub fn come_back(&self, services: Vec<Value>) {
        *self.state.lock().unwrap() = State { away: false, services, refused: 0 };
        self.turns.send_modify(|turn| *turn += 1);
    }

    fn respond(&self, request: &Request<Body>) -> Response<StreamBody<Frames>> {
        let mut state = self.state.lock().unwrap();
        let turn = *self.turns.borrow();
        let uri = request.uri();
        let query = uri.query().unwrap_or_default();
        let (code, body) = if state.away {
            state.refused += 1;
            (StatusCode::SERVICE_UNAVAILABLE, once(&json!({"message": "away", "code": 503})))
        } else if query.contains("watch=true") && query.contains(&format!("resourceVersion={turn}"))
        {
            let mut turns = self.turns.subscribe();
            let until = async move {
                let _closed = turns.wait_for(|now| *now != turn).await;
            };
            let silence = stream::pending().take_until(Box::pin(until));
            (StatusCode::OK, silence.boxed())
        } else if query.contains("watch=true") {
            (StatusCode::GONE, once(&json!({"message": "gone", "code": 410, "reason": "Expired"})))
        } else {
            let mut items =
                if uri.path().ends_with("/services") { state.services.clone() } else { Vec::new() };
            for item in &mut items {
                item["metadata"]["resourceVersion"] = json!(turn.to_string());
            }
            let list = json!({"metadata": {"resourceVersion": turn.to_string()}, "items": items});
            (StatusCode::OK, once(&list))
        };
        Response::builder().status(code).body(StreamBody::new(body)).unwrap()
    }
}

fn once(value: &Value) -> Frames {
    let bytes = Bytes::from(serde_json::to_vec(value).unwrap());
    stream::once(async move { Ok(Frame::data(bytes)) }).boxed()
}
