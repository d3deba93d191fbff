//! `GET /overview` and `GET /admin/overview`: the figures of the live page, as they come.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{sync::mpsc, time::timeout};
use warp::reply::Response;

use crate::{
    app::App,
    auth::{Caller, Operator},
    overview::{TooManyViewers, Viewer},
    reply::{self, Problem},
};

/// Events that wait for a client that reads slowly.
const EVENTS: usize = 4;

/// A client that reads nothing for this long is dropped.
const PATIENCE: Duration = Duration::from_secs(15);

/// Without an update for this long, a comment shows that the stream goes on.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// What the caller may see.
///
/// # Errors
/// Too many watch.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the routes pass each controller a caller and an app of its own"
)]
pub fn of_caller(caller: Caller, app: Arc<App>) -> Result<Response, Problem> {
    watch(app.overview.watch(caller.name().cloned()))
}

/// Everything, for an operator.
///
/// # Errors
/// Too many watch.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the routes pass each controller an app of its own"
)]
pub fn of_operator(_: Operator, app: Arc<App>) -> Result<Response, Problem> {
    watch(app.overview.watch_as_operator())
}

fn watch(viewer: Result<Viewer, TooManyViewers>) -> Result<Response, Problem> {
    let viewer = viewer.map_err(|_| Problem::too_many_viewers())?;
    let (events, body) = mpsc::channel(EVENTS);
    // A task of its own: while the client reads nothing, nobody asks the body for more.
    tokio::spawn(send(viewer, events));
    Ok(reply::overview::stream(body))
}

/// Sends what the viewer may see until it leaves, or has to.
async fn send(mut viewer: Viewer, events: mpsc::Sender<Bytes>) {
    let mut event = reply::overview::beginning(&viewer);
    viewer.has_begun();
    loop {
        let sent = timeout(PATIENCE, events.send(event)).await;
        if !matches!(sent, Ok(Ok(()))) {
            return; // it reads nothing, or is gone
        }
        event = tokio::select! {
            () = events.closed() => return,
            next = timeout(KEEP_ALIVE, viewer.next()) => match next {
                Ok(Some(update)) => reply::overview::update(&viewer, &update),
                Ok(None) => return,
                Err(_) => reply::overview::KEEP_ALIVE,
            },
        };
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use storm_shared::config::Settings;
    use tempfile::TempDir;
    use tokio::{sync::mpsc, time::timeout};

    use super::{EVENTS, send};
    use crate::{
        app::App,
        metrics::Metrics,
        overview::{OPERATORS, VIEWERS, VIEWERS_OF_CLIENT},
    };

    /// An app whose database is in `folder`.
    async fn start(folder: &TempDir) -> Arc<App> {
        let url = format!("sqlite:{}", folder.path().join("storm.db").display());
        let settings = Settings::with([("DB_URL", url.as_str()), ("REDIS_URL", "none")]).unwrap();
        App::start(settings, Metrics::new()).await.unwrap()
    }

    #[tokio::test]
    async fn a_viewer_that_reads_nothing_is_dropped() {
        let folder = TempDir::new().unwrap();
        let app = start(&folder).await;
        tokio::time::pause();
        let viewer = app.overview.watch(None).unwrap();
        let (events, body) = mpsc::channel(EVENTS);
        let sending = timeout(Duration::from_mins(10), send(viewer, events));
        sending.await.expect("an end, although the body lives");
        assert_eq!(body.len(), EVENTS);
        // Its place is free.
        let others: Vec<_> = (0..VIEWERS).map(|_| app.overview.watch(None)).collect();
        assert!(others.iter().all(Result::is_ok));
        drop(others);
        tokio::time::resume();
        app.close().await;
    }

    #[tokio::test]
    async fn a_client_and_callers_without_a_token_leave_room_for_others() {
        let folder = TempDir::new().unwrap();
        let app = start(&folder).await;
        let watch = |name: &str| app.overview.watch(Some(name.parse().unwrap()));
        let mut viewers: Vec<_> = (0..VIEWERS_OF_CLIENT)
            .map(|_| watch("one").unwrap())
            .collect();
        assert!(watch("one").is_err());
        viewers.push(watch("two").unwrap());
        while let Ok(viewer) = app.overview.watch(None) {
            viewers.push(viewer);
        }
        assert_eq!(viewers.len(), VIEWERS);
        assert!(watch("two").is_err());
        let watch_as_operator = |_| app.overview.watch_as_operator();
        let operators: Result<Vec<_>, _> = (0..OPERATORS).map(watch_as_operator).collect();
        let operators = operators.unwrap();
        assert!(app.overview.watch_as_operator().is_err());
        viewers.pop();
        viewers.push(watch("two").unwrap());
        drop(operators);
        assert!(
            app.overview.watch(None).is_err(),
            "an operator's room is no other's"
        );
        app.overview.watch_as_operator().unwrap();
        drop(viewers);
        app.close().await;
    }
}
