//! Cancelling and redelivering by filter, as an operator: now and then a few pages, and every other
//! time a dry run before.

use std::{ops::Range, time::Duration};

use fastrand::Rng;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use storm_shared::models::{RequestId, Status};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{Load, TIMEOUT, UNFINISHED};
use crate::{
    answers::RequestFailure,
    chaos::{
        clock,
        history::{Filter, FilterAction, FilterAnswer, FilterAsked, FilterCounts, Record},
        orders::{FAVOURITES, HANDLER},
        stack::CLIENT,
    },
};

/// The time between two actions, in milliseconds.
const BETWEEN: Range<u64> = 200..1_200;

/// The largest page, which is drawn anew for each action, and the most pages of one.
const LIMIT: Range<u64> = 1..12;
const PAGES: usize = 3;

/// How many requests are named in `ids`.
const NAMED: Range<usize> = 1..12;

/// How long ago the requests of a window were accepted, and how long that is, in milliseconds.
const WINDOW_BEGAN: Range<i64> = 500..12_000;
const WINDOW: Range<i64> = 100..3_000;

impl Load {
    /// Acts by filter until `over`. `seed` determines the choice.
    pub(in crate::chaos) async fn act_by_filter_random(&self, seed: u64, over: &CancellationToken) {
        let mut random = Rng::with_seed(seed.rotate_left(24));
        let mut wait = random.u64(BETWEEN);
        let until = |wait| over.run_until_cancelled(sleep(Duration::from_millis(wait)));
        while until(wait).await.is_some() {
            let (action, filter) = if random.bool() {
                let filter = self.unfinished_filter(&mut random);
                (FilterAction::Cancel, filter)
            } else {
                let filter = self.finished_filter(&mut random);
                (FilterAction::Redeliver, filter)
            };
            let limit = filter.ids.is_empty().then(|| random.u64(LIMIT));
            if random.bool() {
                self.page(action, &filter, true, limit, None).await;
            }
            let (mut cursor, mut pages) = (None, 0..PAGES);
            while pages.next().is_some() {
                // A page whose answer is lost is not repeated: an operator looks into the audit.
                cursor = self.page(action, &filter, false, limit, cursor).await;
                if cursor.is_none() {
                    break;
                }
            }
            wait = random.u64(BETWEEN);
        }
    }

    /// A filter for what may be in progress.
    fn unfinished_filter(&self, random: &mut Rng) -> Filter {
        let default = Filter::default();
        match random.u8(..8) {
            0 => Filter {
                ids: self.named(random, |load, random| load.newest(random, UNFINISHED)),
                ..default
            },
            1 => Filter {
                origin: self.origin(random),
                status: vec![Status::Pending, Status::Processing],
                ..default
            },
            2 => Filter {
                status: vec![Status::Pending],
                client: Some(CLIENT.to_owned()),
                ..default
            },
            3 => self.window(random),
            // Their redeliveries.
            4 => Filter {
                reason: Some(reason(random)),
                ..default
            },
            5 => Filter {
                handler: Some(HANDLER.to_owned()),
                ..default
            },
            6 => Filter {
                status: vec![Status::Completed],
                origin: self.origin(random),
                ..default
            },
            _ => everything_or_nothing(random),
        }
    }

    /// A filter for what may be over.
    fn finished_filter(&self, random: &mut Rng) -> Filter {
        let default = Filter::default();
        match random.u8(..7) {
            0 => Filter {
                ids: self.named(random, |load, random| {
                    load.accepted(random, usize::MAX)
                        .filter(|_| random.bool())
                        .or_else(|| load.failing(random))
                }),
                ..default
            },
            1 => Filter {
                origin: self.origin(random),
                ..default
            },
            2 => Filter {
                reason: Some(reason(random)),
                ..default
            },
            3 => Filter {
                handler: Some(HANDLER.to_owned()),
                reason: Some("work_failed".to_owned()),
                ..default
            },
            4 => Filter {
                status: vec![Status::Completed],
                ..self.window(random)
            },
            5 => Filter {
                status: vec![Status::Completed, Status::Failed],
                client: Some(CLIENT.to_owned()),
                origin: self.origin(random),
                ..default
            },
            _ => everything_or_nothing(random),
        }
    }

    /// Some ids: those that `choose` finds, one of the jobs that are redelivered all the time, and
    /// now and then one that nobody has.
    fn named(
        &self,
        random: &mut Rng,
        choose: impl Fn(&Self, &mut Rng) -> Option<RequestId>,
    ) -> Vec<RequestId> {
        let count = random.usize(NAMED);
        let mut ids: Vec<_> = (0..count).filter_map(|_| choose(self, random)).collect();
        ids.extend(self.accepted(random, FAVOURITES));
        if random.u8(..4) == 0 || ids.is_empty() {
            ids.push(RequestId::generate());
        }
        ids.sort_unstable();
        ids.dedup();
        random.shuffle(&mut ids);
        ids
    }

    fn origin(&self, random: &mut Rng) -> Option<String> {
        random.choice(&self.shared.origins).cloned()
    }

    /// The requests of a short time, by the services' wall clock. After a step it may have none.
    fn window(&self, random: &mut Rng) -> Filter {
        let now = Timestamp::now() + self.shared.wall_clock.offset();
        let ago = SignedDuration::from_millis(random.i64(WINDOW_BEGAN));
        let after = now - ago;
        let before = after + SignedDuration::from_millis(random.i64(WINDOW));
        Filter {
            created_after: Some(after),
            created_before: Some(before),
            ..Filter::default()
        }
    }

    /// Acts on a page, or tries it out. Returns the cursor of the next one, if there is one.
    async fn page(
        &self,
        action: FilterAction,
        filter: &Filter,
        dry_run: bool,
        limit: Option<u64>,
        cursor: Option<RequestId>,
    ) -> Option<RequestId> {
        let body = body(filter, dry_run, limit, cursor);
        let asked_at = clock::now();
        let deadline = Instant::now() + TIMEOUT;
        let operator = self.shared.operator();
        let answer = operator
            .act_by_filter::<FilterCounts>(action.as_str(), &body, deadline)
            .await;
        let at = clock::now();
        let answer = match answer {
            Ok(counts) => FilterAnswer::Done(counts),
            Err(RequestFailure::Refused(status) | RequestFailure::Status(status, _)) => {
                FilterAnswer::Refused(status.as_u16())
            }
            Err(nothing) => {
                self.judge(&nothing);
                FilterAnswer::Unknown(nothing.to_string())
            }
        };
        let next = match &answer {
            FilterAnswer::Done(counts) => counts.cursor,
            _ => None,
        };
        self.shared.journal.record(Record::FilterAsked(FilterAsked {
            asked_at,
            at,
            action,
            filter: filter.clone(),
            dry_run,
            limit,
            cursor,
            answer,
        }));
        next
    }
}

/// One of the reasons for which jobs fail.
fn reason(random: &mut Rng) -> String {
    let reasons = [
        "callback_failed",
        "cancelled",
        "work_failed",
        "work_timed_out",
    ];
    reasons[random.usize(..reasons.len())].to_owned()
}

/// All requests, or those of a client that has none.
fn everything_or_nothing(random: &mut Rng) -> Filter {
    let nobody = random.bool();
    Filter {
        client: nobody.then(|| "nobody".to_owned()),
        all: !nobody,
        ..Filter::default()
    }
}

fn body(filter: &Filter, dry_run: bool, limit: Option<u64>, cursor: Option<RequestId>) -> Value {
    let mut body = json!(filter);
    if dry_run {
        body["dry_run"] = json!(true);
    }
    if let Some(limit) = limit {
        body["limit"] = json!(limit);
    }
    if let Some(cursor) = cursor {
        body["cursor"] = json!(cursor);
    }
    body
}
