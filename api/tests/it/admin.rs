//! Operators: their tokens, and what they pause.

use serde_json::json;
use storm_shared::services::access::Token;
use tempfile::TempDir;
use tokio::time::timeout;

use crate::{
    PATIENCE,
    auth::{bearing, entry, token},
    client::{Answer, bare, post},
    redelivery::{HOOK, failed},
    server::{NO_REDIS, Server},
    service::{Service, program},
};

const JOB: &str = r#"{"records": 1, "report_name": "a"}"#;
const EVERYTHING: &str = r#"{"everything": true}"#;

/// A server with one client and one operator.
pub(crate) struct Operated {
    pub(crate) server: Server,
    pub(crate) client: Token,
    pub(crate) operator: Token,
}

impl Operated {
    pub(crate) async fn start(overrides: &[(&str, &str)]) -> Self {
        let (client, operator) = (token(), token());
        let entries = [entry("one", &client), entry("ops", &operator)];
        let tokens = [
            ("API_TOKENS", entries[0].as_str()),
            ("ADMIN_TOKENS", &entries[1]),
        ];
        let server = Server::start(&[&tokens[..], overrides].concat()).await;
        Self {
            server,
            client,
            operator,
        }
    }

    async fn ask(&self, request: &str) -> Answer {
        self.server.ask(bearing(&self.operator, request)).await
    }
}

fn detail(answer: &Answer) -> String {
    answer.json()["detail"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn without_admin_tokens_there_is_no_admin() {
    let server = Server::start(&[]).await;
    for request in [
        bare("GET", "/admin"),
        bare("GET", "/admin/pause"),
        bare("PUT", "/admin/pause"),
        bare("GET", "/admin/audit"),
        post("/admin/pause", EVERYTHING),
        bearing(&token(), &post("/admin/pause", EVERYTHING)),
    ] {
        let answer = server.ask(&request).await;
        assert_eq!(answer.problem(), "404 not-found", "{request}");
    }
    assert_eq!(server.app.store.pauses().await.unwrap(), []);

    let client = token();
    let server = Server::start(&[("API_TOKENS", &entry("one", &client))]).await;
    let request = post("/admin/pause", EVERYTHING);
    assert_eq!(server.ask(&request).await.problem(), "401 unauthorized");
    let answer = server.ask(bearing(&client, &request)).await;
    assert_eq!(answer.problem(), "404 not-found");
}

#[tokio::test]
async fn admin_opens_to_an_operators_token_only_and_that_opens_nothing_else() {
    let it = Operated::start(&[]).await;
    for path in ["/admin", "/admin/", "/admin/pause", "/admin/nothing"] {
        for request in [bare("GET", path), post(path, EVERYTHING)] {
            let answer = it.server.ask(&request).await;
            assert_eq!(answer.problem(), "401 unauthorized", "{request}");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
            let guess = it.server.ask(bearing(&token(), &request)).await;
            assert_eq!(guess.problem(), "401 unauthorized");
            let client = it.server.ask(bearing(&it.client, &request)).await;
            assert_eq!(client.problem(), "403 forbidden");
            assert!(detail(&client).contains("Use an operator's token"));
        }
    }
    assert_eq!(it.server.app.store.pauses().await.unwrap(), []);
    // Other spellings are no operator's paths.
    for path in [
        "//admin/pause",
        "/admin%2fpause",
        "/Admin/pause",
        "/administrators",
    ] {
        let answer = it.ask(&post(path, EVERYTHING)).await;
        assert_eq!(answer.problem(), "403 forbidden", "{path}");
        assert!(detail(&answer).contains("Use a client's token"));
        let answer = it
            .server
            .ask(bearing(&it.client, &post(path, EVERYTHING)))
            .await;
        assert_eq!(answer.problem(), "404 not-found", "{path}");
    }
    for request in [
        post("/async", JOB),
        post("/sync", JOB),
        bare("GET", "/requests"),
        bare("GET", "/metrics"),
    ] {
        let answer = it.ask(&request).await;
        assert!(matches!(answer.status, 401 | 403), "{request}");
    }
    let answer = it.ask(&bare("GET", "/admin/nothing")).await;
    assert_eq!(answer.problem(), "404 not-found");
    assert!(detail(&answer).contains("POST /admin/resume"));
    for (path, allowed) in [
        ("/admin/pause", "GET, HEAD, POST"),
        ("/admin/resume", "POST"),
        ("/admin/audit", "GET, HEAD"),
    ] {
        let answer = it.ask(&bare("DELETE", path)).await;
        assert_eq!(
            (answer.status, answer.header("allow")),
            (405, Some(allowed))
        );
    }
}

#[tokio::test]
async fn without_api_tokens_clients_need_none_and_operators_do() {
    let operator = token();
    let server = Server::start(&[("ADMIN_TOKENS", &entry("ops", &operator))]).await;
    assert_eq!(server.ask(post("/async", JOB)).await.status, 202);
    let request = bare("GET", "/admin/pause");
    assert_eq!(server.ask(&request).await.problem(), "401 unauthorized");
    // Where a token is needed, any host may be named.
    let elsewhere = request.replace("localhost", "ops.example");
    let answer = server.ask(bearing(&operator, &elsewhere)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answer = server
        .ask(elsewhere.replace("/admin/pause", "/requests"))
        .await;
    assert_eq!(answer.problem(), "421 misdirected");
}

#[tokio::test]
async fn operators_have_no_rate_limit_and_a_web_page_is_refused() {
    let it = Operated::start(&[("RATE_LIMIT", "1/h")]).await;
    for _ in 0..5 {
        assert_eq!(it.ask(&bare("GET", "/admin/pause")).await.status, 200);
    }
    let page = post("/admin/pause", EVERYTHING);
    let page = page.replacen("\r\n", "\r\norigin: https://evil.example\r\n", 1);
    assert_eq!(it.ask(&page).await.problem(), "403 cross-origin");
    let callback = post("/admin/pause", EVERYTHING);
    let callback = callback.replacen("\r\n", "\r\nstorm-callback: 1\r\n", 1);
    assert_eq!(it.ask(&callback).await.problem(), "403 callback-loop");
}

#[tokio::test]
async fn a_pause_is_seen_in_the_health_check_the_metrics_and_the_request() {
    let it = Operated::start(&[]).await;
    let accepted = it
        .server
        .ask(bearing(&it.client, &post("/async", JOB)))
        .await;
    let id = accepted.json()["request_id"].as_str().unwrap().to_owned();
    let first = it.ask(&post("/admin/pause", EVERYTHING)).await;
    assert_eq!(
        (first.status, &first.json()["changed"]),
        (200, &json!(true))
    );
    let again = it.ask(&post("/admin/pause", EVERYTHING)).await;
    assert_eq!(
        (again.status, &again.json()["changed"]),
        (200, &json!(false))
    );
    let origin = r#"{"origin": "HTTPS://Hooks.example:443/"}"#;
    assert_eq!(it.ask(&post("/admin/pause", origin)).await.status, 200);

    let pauses = it.ask(&bare("GET", "/admin/pause")).await.json();
    assert_eq!(pauses["everything"]["operator"], "ops");
    assert_eq!(pauses["origins"][0]["origin"], "https://hooks.example");
    let health = it.server.ask(bare("GET", "/healthz")).await.json();
    assert_eq!(
        (
            &health["paused"],
            &health["paused_origins"],
            &health["database"]
        ),
        (&json!(true), &json!(1), &json!("ok"))
    );
    let metrics = it.server.app.metrics.render();
    assert!(metrics.contains("storm_api_paused 1\n"), "{metrics}");
    assert!(
        metrics.contains("storm_api_paused_origins 1\n"),
        "{metrics}"
    );
    let request = bare("GET", &format!("/requests/{id}"));
    let request = it.server.ask(bearing(&it.client, &request)).await.json();
    assert_eq!(request["waiting_for"]["reason"], "paused");
    assert_eq!(
        it.server
            .ask(bearing(&it.client, &post("/async", JOB)))
            .await
            .status,
        202
    );
    assert_eq!(it.server.ask(bare("GET", "/readyz")).await.status, 200);

    for body in [EVERYTHING, origin] {
        let resumed = it.ask(&post("/admin/resume", body)).await;
        assert_eq!(resumed.json()["changed"], true, "{}", resumed.text());
        let again = it.ask(&post("/admin/resume", body)).await;
        assert_eq!(again.json()["changed"], false);
    }
    let health = it.server.ask(bare("GET", "/healthz")).await.json();
    assert_eq!(health.get("paused").or(health.get("paused_origins")), None);
}

#[tokio::test]
async fn a_pause_by_another_process_is_seen_within_a_moment() {
    let server = Server::start(&[("REDIS_URL", "none")]).await;
    let ok = json!({"status": "ok", "database": "ok", "redis": "none"});
    let health = async || server.ask(bare("GET", "/healthz")).await.checks();
    assert_eq!(health().await, ok);
    let other = &server.app.store;
    let operator = || "other".parse().unwrap();
    let everything = storm_shared::services::store::Paused::Everything;
    let paused = other.pause(everything.clone(), operator()).await;
    assert!(paused.unwrap().unwrap());
    while health().await == ok {
        tokio::task::yield_now().await;
    }
    let paused = json!({"status": "ok", "database": "ok", "redis": "none", "paused": true});
    assert_eq!(health().await, paused);
    assert!(other.resume(everything, operator()).await.unwrap());
    while health().await != ok {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_pause_that_names_nothing_or_too_much_changes_nothing_and_says_why() {
    let it = Operated::start(&[NO_REDIS]).await;
    for (body, field) in [
        ("{}", "everything"),
        (r#"{"everything": false}"#, "everything"),
        (r#"{"origin": "https://a.example/hook"}"#, "origin"),
        (r#"{"orign": "https://a.example"}"#, "orign"),
    ] {
        for path in ["/admin/pause", "/admin/resume"] {
            let answer = it.ask(&post(path, body)).await;
            assert_eq!(answer.problem(), "422 validation", "{body}");
            assert_eq!(answer.json()["errors"][0]["field"], field);
        }
    }
    let answer = it.ask(&bare("POST", "/admin/pause")).await;
    assert_eq!(answer.problem(), "415 unsupported-media-type");
    assert_eq!(it.server.app.store.pauses().await.unwrap(), []);
    assert_eq!(it.server.app.store.audit(None, 1).await.unwrap().len(), 0);
}

#[tokio::test]
async fn the_audit_says_who_has_done_what_newest_first() {
    let it = Operated::start(&[]).await;
    let one = r#"{"origin":"https://hooks.example"}"#;
    it.ask(&post("/admin/pause", EVERYTHING)).await;
    it.ask(&post("/admin/pause", one)).await;
    it.ask(&post("/admin/resume", EVERYTHING)).await;
    let first = it.ask(&bare("GET", "/admin/audit?limit=2")).await.json();
    let actions = first["records"].as_array().unwrap();
    assert_eq!(actions.len(), 2);
    assert_eq!(actions[0]["action"], "resume");
    assert_eq!(actions[1]["filter"]["origin"], "https://hooks.example");
    assert_eq!(actions[1]["operator"], "ops");
    let cursor = first["next_cursor"].as_str().unwrap();
    let path = format!("/admin/audit?limit=2&cursor={cursor}");
    let second = it.ask(&bare("GET", &path)).await.json();
    assert_eq!(second["records"][0]["filter"]["everything"], true);
    assert_eq!(second["next_cursor"], json!(null));
    let refused = it.ask(&bare("GET", "/admin/audit?limit=0")).await;
    assert_eq!(refused.problem(), "422 validation");
}

#[tokio::test]
async fn requests_are_cancelled_by_filter_after_a_dry_run_of_all_clients() {
    let it = Operated::start(&[]).await;
    let mut ids = Vec::new();
    for url in [
        "https://bad.example/a",
        "https://bad.example/b",
        "https://good.example/",
    ] {
        let body = json!({"records": 1, "report_name": "a", "callback_url": url});
        let accepted = it
            .server
            .ask(bearing(&it.client, &post("/async", body)))
            .await;
        ids.push(accepted.json()["request_id"].clone());
    }
    let tried = post(
        "/admin/cancel",
        r#"{"origin": "https://bad.example", "dry_run": true}"#,
    );
    let tried = it.ask(&tried).await;
    assert_eq!(tried.status, 200);
    assert_eq!(
        tried.json(),
        json!({"dry_run": true, "matched": 2, "changed": 0, "skipped": 0, "ids": ids[..2],
               "cursor": null})
    );
    let status = async |id: &serde_json::Value| {
        let request = bare("GET", &format!("/requests/{}", id.as_str().unwrap()));
        it.server.ask(bearing(&it.client, &request)).await.json()
    };
    assert_eq!(status(&ids[0]).await["status"], "PENDING");

    let mut body = json!({"origin": "https://bad.example", "limit": 1});
    let mut changed = Vec::new();
    loop {
        let page = it.ask(&post("/admin/cancel", &body)).await.json();
        assert_eq!(page.get("ids"), None, "{page}");
        changed.push(page["changed"].as_u64().unwrap());
        if page["cursor"].is_null() {
            break;
        }
        body["cursor"] = page["cursor"].clone();
    }
    // An engine may know that the page with the other origin's has none.
    assert!(
        [&[1, 1][..], &[1, 1, 0]].contains(&changed.as_slice()),
        "{changed:?}"
    );
    let metrics = it.server.app.metrics.render();
    let counted = "storm_api_cancelled_jobs_total{by=\"operator\"} 2\n";
    assert!(metrics.contains(counted), "{metrics}");
    for id in &ids[..2] {
        let row = status(id).await;
        assert_eq!(row["failure"]["reason"], "cancelled");
        assert_eq!(
            row["failure"]["detail"],
            "An operator cancelled it while no worker held it."
        );
    }
    assert_eq!(status(&ids[2]).await["status"], "PENDING");
    let audit = it.ask(&bare("GET", "/admin/audit")).await.json();
    let told: Vec<_> = audit["records"].as_array().unwrap().iter().collect();
    assert_eq!(told.len(), 1 + changed.len());
    assert_eq!(
        (&told[changed.len()]["dry_run"], &told[0]["action"]),
        (&json!(true), &json!("cancel"))
    );
    assert_eq!(told[0]["filter"], json!({"origin": "https://bad.example"}));
}

#[tokio::test]
async fn the_requests_of_a_handler_are_cancelled_and_an_unknown_one_changes_nothing() {
    let it = Operated::start(&[("HANDLERS__PDF__URL", "http://127.0.0.1:9/")]).await;
    let submit = async |path, body: &str| {
        let accepted = bearing(&it.client, &post(path, body));
        it.server.ask(accepted).await.json()["request_id"].clone()
    };
    let pdf = submit("/async/pdf", r#"{"payload": 1}"#).await;
    submit("/async", JOB).await;
    let cancel = async |body: &str| it.ask(&post("/admin/cancel", body)).await;
    let tried = cancel(r#"{"handler": "pdf", "dry_run": true}"#)
        .await
        .json();
    assert_eq!(
        (&tried["ids"], &tried["matched"]),
        (&json!([pdf]), &json!(1))
    );
    for body in [
        r#"{"handler": "pdg"}"#,
        r#"{"handler": "pdg", "dry_run": true}"#,
    ] {
        let answer = cancel(body).await;
        assert_eq!(answer.problem(), "422 validation");
        let errors = &answer.json()["errors"];
        assert_eq!(errors[0]["field"], "handler");
        let detail = errors[0]["detail"].as_str().unwrap();
        assert!(detail.contains("settings: `report`, `pdf`;"), "{detail}");
    }
    let done = cancel(r#"{"handler": "pdf"}"#).await.json();
    assert_eq!((&done["matched"], &done["changed"]), (&json!(1), &json!(1)));
    let audit = it.ask(&bare("GET", "/admin/audit")).await.json();
    let records = audit["records"].as_array().unwrap();
    assert_eq!(records.len(), 2, "{audit}");
    assert_eq!(records[0]["filter"], json!({"handler": "pdf"}));
}

#[tokio::test]
async fn the_jobs_of_a_handler_that_was_removed_from_the_settings_are_cancelled() {
    let it = Operated::start(&[("HANDLERS__PDF__URL", "http://127.0.0.1:9/")]).await;
    for _ in 0..2 {
        let job = post("/async/pdf", r#"{"payload": 1}"#);
        it.server.ask(bearing(&it.client, &job)).await.json();
    }
    // As if they were of a handler that had another name before the API was started.
    let renamed = "UPDATE requests SET handler = 'gone'";
    it.server.database().await.change(2, renamed).await;
    let cancel = async |body: &str| it.ask(&post("/admin/cancel", body)).await;
    // From the next count on, the name is known.
    let first = async {
        loop {
            let answer = cancel(r#"{"handler": "gone", "limit": 1}"#).await;
            if answer.status == 200 {
                return answer.json();
            }
            assert_eq!(answer.problem(), "422 validation");
        }
    };
    let first = timeout(PATIENCE, first).await.expect("a count of its jobs");
    assert_eq!(first["changed"], 1);
    let list = bearing(&it.client, &bare("GET", "/requests?handler=gone&limit=1"));
    let listed = it.server.ask(list).await.json();
    assert_eq!(listed["requests"][0]["status"], "PENDING");
    let page = json!({"handler": "gone", "cursor": first["cursor"]});
    assert_eq!(cancel(&page.to_string()).await.json()["changed"], 1);
    // Nothing is left to do. The pages that had begun go on, and no other begins.
    let forgotten = async {
        while cancel(r#"{"handler": "gone", "dry_run": true}"#)
            .await
            .status
            == 200
        {}
    };
    timeout(PATIENCE, forgotten)
        .await
        .expect("a count without them");
    assert_eq!(cancel(&page.to_string()).await.json()["matched"], 0);
    let next = listed["next_cursor"].as_str().expect("another page");
    let next = bare("GET", &format!("/requests?handler=gone&cursor={next}"));
    let next = it.server.ask(bearing(&it.client, &next)).await.json();
    assert_eq!(next["requests"].as_array().unwrap().len(), 1, "{next}");
}

#[tokio::test]
async fn failed_requests_are_redelivered_by_filter_within_the_backlog_limit() {
    let it = Operated::start(&[("MAX_PARKED_PER_ORIGIN", "2")]).await;
    let store = &it.server.app.store;
    for _ in 0..3 {
        failed(store, HOOK).await;
    }
    let other = failed(store, Some("https://other.example/")).await;
    failed(store, None).await;
    let filter = r#"{"reason": "callback_failed", "dry_run": true}"#;
    let tried = it.ask(&post("/admin/redeliver", filter)).await.json();
    assert_eq!(
        (&tried["matched"], &tried["changed"], &tried["skipped"]),
        (&json!(4), &json!(0), &json!(1))
    );
    assert_eq!(tried["ids"].as_array().unwrap().len(), 3);
    let filter = r#"{"reason": "callback_failed"}"#;
    let done = it.ask(&post("/admin/redeliver", filter)).await.json();
    assert_eq!(
        (&done["matched"], &done["changed"], &done["skipped"]),
        (&json!(4), &json!(3), &json!(1))
    );
    let row = store.find(other).await.unwrap().unwrap();
    assert!(row.redelivery.is_some());
    let by_id = json!({"ids": [other]});
    let again = it.ask(&post("/admin/redeliver", by_id)).await.json();
    assert_eq!(
        (&again["matched"], &again["changed"]),
        (&json!(0), &json!(0))
    );
}

#[tokio::test]
async fn an_action_without_a_filter_changes_nothing_and_a_clients_token_is_refused() {
    let it = Operated::start(&[]).await;
    let accepted = it
        .server
        .ask(bearing(&it.client, &post("/async", JOB)))
        .await;
    assert_eq!(accepted.status, 202);
    for path in ["/admin/cancel", "/admin/redeliver"] {
        for body in [
            "{}",
            r#"{"dry_run": false}"#,
            r#"{"all": true, "statsu": ["FAILED"]}"#,
        ] {
            let answer = it.ask(&post(path, body)).await;
            assert_eq!(answer.problem(), "422 validation", "{body}");
        }
        let all = post(path, r#"{"all": true}"#);
        let client = it.server.ask(bearing(&it.client, &all)).await;
        assert_eq!(client.problem(), "403 forbidden");
        assert_eq!(it.server.ask(&all).await.problem(), "401 unauthorized");
        let answer = it.ask(&bare("GET", path)).await;
        assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")));
    }
    assert_eq!(it.server.app.store.audit(None, 9).await.unwrap().len(), 0);
    let all = it.ask(&post("/admin/cancel", r#"{"all": true}"#)).await;
    assert_eq!(all.json()["changed"], 1);
}

#[tokio::test]
async fn each_action_is_a_line_in_the_log_with_the_operators_name() {
    let (folder, operator) = (TempDir::new().unwrap(), token());
    let mut command = program(folder.path());
    command.env("ADMIN_TOKENS", entry("ops", &operator));
    let service = Service::spawn(command, folder.path()).await;
    service.is_open().await;
    let act = async |path, body: &str| {
        let answer = service.ask(bearing(&operator, &post(path, body))).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    act("/admin/pause", r#"{"origin": "https://hooks.example"}"#).await;
    let paused = service.says("an operator has paused work").await;
    assert_eq!(
        (&paused["operator"], &paused["on"], &paused["changed"]),
        (&json!("ops"), &json!("https://hooks.example"), &json!(true))
    );
    act("/admin/resume", EVERYTHING).await;
    let resumed = service.says("an operator has resumed work").await;
    assert_eq!(
        (&resumed["on"], &resumed["changed"]),
        (&json!("everything"), &json!(false))
    );
    act("/admin/cancel", r#"{"client": "one", "dry_run": true}"#).await;
    let tried = service.says("an operator has acted on requests").await;
    assert_eq!(
        (&tried["action"], &tried["filter"], &tried["dry_run"]),
        (
            &json!("cancel"),
            &json!(r#"{"client":"one"}"#),
            &json!(true)
        )
    );
}

#[tokio::test]
async fn operators_act_while_clients_bodies_fill_the_memory_budget() {
    let it = Operated::start(&[("MEMORY_BUDGET", "8MiB")]).await;
    let memory = &it.server.app.memory;
    let _others = memory.reserve_up_to(memory.limit()).unwrap();
    let client = it
        .server
        .ask(bearing(&it.client, &post("/async", JOB)))
        .await;
    assert_eq!(client.problem(), "503 memory-budget-exceeded");
    for (path, body) in [
        ("/admin/pause", EVERYTHING),
        ("/admin/cancel", r#"{"all": true}"#),
        ("/admin/resume", EVERYTHING),
    ] {
        assert_eq!(it.ask(&post(path, body)).await.status, 200, "{path}");
    }
}
